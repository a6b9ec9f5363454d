"""Save a frozen agent to a directory, from which another process can load it.

    agent.json                its settings, labels, usage and calls in flight
    call-0.safetensors ...    KV images of those calls, if their core made some

The directory does not contain the agent's memory and files, which belong to its identity in
the state directory, nor its sandbox session, which ends with the agent.

The directory is written atomically (next to its place, synced and renamed). Everything
blocks; call it off the kernel's loop.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from aios_core.accounting import Accounting
from aios_core.budget import Budget, Cost
from aios_core.errors import InvalidRequest, SnapshotError
from aios_core.private_files import make_directory, open_private, sync_directory, tighten
from aios_core.process import AgentProcess
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

FORMAT = 2  # 1: without identity, labels and age
READABLE = (1, FORMAT)
ABOUT = "agent.json"


@dataclass(frozen=True, slots=True)
class SavedCall:
    """A saved call without an answer."""

    request: LLMGenerate
    priority: int
    snapshot: Snapshot | None  # None: it never ran


@dataclass(frozen=True, slots=True)
class SavedAgent:
    """Everything needed to continue an agent in another kernel."""

    name: str
    group: str
    identity: str  # empty if an older format did not store it
    labels: frozenset[str]
    age_s: float  # seconds of its wall time that are used
    priority: int
    weight: float
    budget: Budget
    spent: Cost
    accounting: Accounting
    calls: tuple[SavedCall, ...]
    images: tuple[Path | None, ...] = ()  # one for each call, when read from a directory

    @classmethod
    def of(cls, process: AgentProcess, calls: Sequence[SavedCall], now: float) -> SavedAgent:
        return cls(
            name=process.name,
            group=process.group.name,
            identity=process.identity,
            labels=frozenset(process.labels),
            age_s=max(0.0, now - process.spawned_at),
            priority=process.priority,
            weight=process.weight,
            budget=process.budget.limits,
            spent=process.budget.spent.cost(),
            accounting=process.accounting,
            calls=tuple(calls),
        )

    def write(self, directory: Path) -> None:
        """Write the directory, which must not exist yet, or hold a saved agent.

        Raises `SnapshotError` if it cannot be written; an older save stays intact then.
        """
        _require_place(directory)
        partial = directory.with_name(directory.name + ".partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            make_directory(partial)
            calls = [self._write_call(partial, i, call) for i, call in enumerate(self.calls)]
            _write_synced(partial / ABOUT, json.dumps(self._about(calls), indent=1))
            _replace_directory(partial, directory)
        except OSError as exc:
            shutil.rmtree(partial, ignore_errors=True)
            raise SnapshotError(f"cannot write {directory.name}: {exc}") from exc

    def _about(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "group": self.group,
            "identity": self.identity,
            "labels": sorted(self.labels),
            "age_s": self.age_s,
            "priority": self.priority,
            "weight": self.weight,
            "budget": asdict(self.budget),
            "spent": asdict(self.spent),
            "accounting": _encode_accounting(self.accounting),
            "calls": calls,
        }

    def _write_call(self, directory: Path, position: int, call: SavedCall) -> dict[str, Any]:
        snapshot, image = call.snapshot, None
        if snapshot is not None and snapshot.kv is not None:
            image = f"call-{position}.safetensors"
            snapshot.kv.copy_to(directory / image)
            tighten(directory / image)
        return {
            "request": call.request.to_dict(),
            "priority": call.priority,
            "snapshot": None if snapshot is None else snapshot.encode(),
            "image": image,
        }

    @classmethod
    def read(cls, directory: Path) -> SavedAgent:
        """Read a directory. Raises `SnapshotError` if it is missing, damaged or newer."""
        try:
            if not directory.exists() and _former(directory).exists():
                directory = _former(directory)  # a crash between the two renames of a write
            raw = json.loads((directory / ABOUT).read_text("utf-8"))
            if raw.get("format") not in READABLE:
                raise SnapshotError(
                    f"{directory.name} has format {raw.get('format')!r}; "
                    f"this kernel reads {' and '.join(map(str, READABLE))}"
                )
            if raw["format"] == 1:
                raw = {"identity": "", "labels": [], "age_s": 0.0, **raw}
            return cls._decode(raw, directory)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidRequest) as exc:
            raise SnapshotError(
                f"{directory.name} is damaged, or not the directory of a saved agent: {exc!r}"
            ) from exc

    @classmethod
    def _decode(cls, raw: Mapping[str, Any], directory: Path) -> SavedAgent:
        calls = [
            SavedCall(
                request=LLMGenerate.from_dict(call["request"]),
                priority=call["priority"],
                snapshot=None if call["snapshot"] is None else Snapshot.decode(call["snapshot"]),
            )
            for call in raw["calls"]
        ]
        return cls(
            name=raw["name"],
            group=raw["group"],
            identity=str(raw["identity"]),
            labels=_labels(raw["labels"]),
            age_s=_seconds(raw["age_s"]),
            priority=raw["priority"],
            weight=raw["weight"],
            budget=Budget(**raw["budget"]),
            spent=Cost(**raw["spent"]),
            accounting=_decode_accounting(raw["accounting"]),
            calls=tuple(calls),
            images=tuple(
                directory / Path(c["image"]).name if c["image"] else None for c in raw["calls"]
            ),
        )


def require_savable(owner: str, call_id: int, request: LLMGenerate) -> None:
    """Raise `SnapshotError` for a call with objects of this process, such as an external call.

    The error names the call, the object, and what to do.
    """
    for key, value in request.extra.items():
        try:
            json.dumps({key: value})
        except (TypeError, ValueError) as exc:
            raise SnapshotError(
                f"call {call_id} of agent {owner!r} to {request.model or 'the default model'!r} "
                f"cannot be saved: it holds an object of this process ({key!r}, a "
                f"{type(value).__name__}); await its answer or cancel it, and save again"
            ) from exc


def _encode_accounting(accounting: Accounting) -> dict[str, Any]:
    """Convert the counters to plain values; `asdict` would split a `Counter` into pairs."""
    plain: dict[str, Any] = {}
    for field in fields(accounting):
        value = getattr(accounting, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            plain[field.name] = asdict(value)
        else:
            plain[field.name] = dict(value) if isinstance(value, Mapping) else value
    return plain


def _decode_accounting(raw: Mapping[str, Any]) -> Accounting:
    """Restore the counters with the types of a new agent's; unknown ones are dropped."""
    accounting = Accounting()
    for field in fields(accounting):
        if field.name not in raw:
            continue
        kind, value = type(getattr(accounting, field.name)), raw[field.name]
        setattr(accounting, field.name, kind(**value) if is_dataclass(kind) else kind(value))
    return accounting


def _labels(raw: object) -> frozenset[str]:
    if not isinstance(raw, list) or not all(isinstance(label, str) for label in raw):
        raise ValueError(f"labels are a list of texts, not {raw!r}")
    return frozenset(raw)


def _seconds(raw: object) -> float:
    if not isinstance(raw, int | float) or not (isfinite(raw) and raw >= 0):
        raise ValueError(f"a duration is a number of seconds, not {raw!r}")
    return float(raw)


def _require_place(directory: Path) -> None:
    """Raise `SnapshotError` if the place holds something else, or cannot be written."""
    try:
        is_anothers = directory.exists() and not (directory / ABOUT).exists()
    except OSError as exc:
        raise SnapshotError(f"cannot write {directory.name:.80}: {exc.strerror}") from exc
    if is_anothers:
        raise SnapshotError(
            f"{directory.name} exists and is not the directory of a saved agent; "
            "choose one that does not exist yet"
        )


def _write_synced(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(open_private(path, flags), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _former(directory: Path) -> Path:
    return directory.with_name(directory.name + ".former")


def _replace_directory(new: Path, directory: Path) -> None:
    """Replace `directory` by `new`; at every moment one of the two can be read."""
    former = _former(directory)
    if directory.exists():
        shutil.rmtree(former, ignore_errors=True)
        directory.replace(former)
    new.replace(directory)
    sync_directory(directory.parent)
    shutil.rmtree(former, ignore_errors=True)
