"""A frozen agent on disk: a directory that another process can thaw it from.

    agent.json                what the agent is, its labels, what it has spent, its calls in flight
    call-0.safetensors ...    KV images of those calls, where their core made some

Its memory and files are not in it: they belong to its identity, in the state directory.
Nor is a session of the sandbox, which ends with the agent.

The directory appears whole or not at all (it is written beside its place, synced
and renamed). Everything blocks; call it off the kernel's loop.
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
class FrozenCall:
    """A call that has no answer yet."""

    request: LLMGenerate
    priority: int
    snapshot: Snapshot | None  # None: it never ran


@dataclass(frozen=True, slots=True)
class FrozenAgent:
    """All that is needed to go on with an agent elsewhere."""

    name: str
    group: str
    identity: str  # empty: an older format did not keep it
    labels: frozenset[str]
    age_s: float  # how much of its wall time is used
    priority: int
    weight: float
    budget: Budget
    spent: Cost
    accounting: Accounting
    calls: tuple[FrozenCall, ...]
    images: tuple[Path | None, ...] = ()  # one for each call, when read from a directory

    @classmethod
    def of(cls, process: AgentProcess, calls: Sequence[FrozenCall], now: float) -> FrozenAgent:
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
        """Write the directory, which must not exist yet or be a frozen agent's.

        Raises `SnapshotError` if it cannot be written; what was there before is there still.
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

    def _write_call(self, directory: Path, position: int, call: FrozenCall) -> dict[str, Any]:
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
    def read(cls, directory: Path) -> FrozenAgent:
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
            raise SnapshotError(f"{directory.name} is not a frozen agent: {exc!r}") from exc

    @classmethod
    def _decode(cls, raw: Mapping[str, Any], directory: Path) -> FrozenAgent:
        calls = [
            FrozenCall(
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
    """Refuse a call that holds what lives in this process alone, as one that a guest makes does.

    Raises `SnapshotError`, naming the call, what it holds and the way out.
    """
    for key, value in request.extra.items():
        try:
            json.dumps({key: value})
        except (TypeError, ValueError) as exc:
            raise SnapshotError(
                f"call {call_id} of agent {owner!r} to {request.model or 'the default model'!r} "
                f"cannot be saved: it holds what lives in this process alone ({key!r}, a "
                f"{type(value).__name__}); await its answer or cancel it, and save again"
            ) from exc


def _encode_accounting(books: Accounting) -> dict[str, Any]:
    """Turn the counters into plain values; `asdict` would take a `Counter` apart into pairs."""
    plain: dict[str, Any] = {}
    for field in fields(books):
        value = getattr(books, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            plain[field.name] = asdict(value)
        else:
            plain[field.name] = dict(value) if isinstance(value, Mapping) else value
    return plain


def _decode_accounting(raw: Mapping[str, Any]) -> Accounting:
    """The counters, each of the type that a new agent's has; those of another version are 0."""
    books = Accounting()
    for field in fields(books):
        if field.name not in raw:
            continue
        kind, value = type(getattr(books, field.name)), raw[field.name]
        setattr(books, field.name, kind(**value) if is_dataclass(kind) else kind(value))
    return books


def _labels(raw: object) -> frozenset[str]:
    if not isinstance(raw, list) or not all(isinstance(label, str) for label in raw):
        raise ValueError(f"labels are a list of texts, not {raw!r}")
    return frozenset(raw)


def _seconds(raw: object) -> float:
    if not isinstance(raw, int | float) or not (isfinite(raw) and raw >= 0):
        raise ValueError(f"a duration is a number of seconds, not {raw!r}")
    return float(raw)


def _require_place(directory: Path) -> None:
    """Raise `SnapshotError` if something else is there, or nothing can be."""
    try:
        is_anothers = directory.exists() and not (directory / ABOUT).exists()
    except OSError as exc:
        raise SnapshotError(f"cannot write {directory.name:.80}: {exc.strerror}") from exc
    if is_anothers:
        raise SnapshotError(f"{directory.name} exists and is not a frozen agent's directory")


def _write_synced(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with os.fdopen(open_private(path, flags), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _former(directory: Path) -> Path:
    return directory.with_name(directory.name + ".former")


def _replace_directory(new: Path, directory: Path) -> None:
    """Put `new` in the place of `directory`; at every moment one of the two can be read."""
    former = _former(directory)
    if directory.exists():
        shutil.rmtree(former, ignore_errors=True)
        directory.replace(former)
    new.replace(directory)
    sync_directory(directory.parent)
    shutil.rmtree(former, ignore_errors=True)
