"""The context switcher: keeps what is needed to continue a generation.

It keeps the snapshots of suspended calls and the warm contexts of agents between
two calls, and moves their KV images device -> host -> disk when a tier fills up,
or drops them where computing again is cheaper (see `placement`).

Entries are changed on the kernel's loop only. Copies and file writes run on one
worker thread, at most one move at a time; while the image of a suspended call
moves, `on_moving` makes the dispatcher hold the call. A warm context that is
being moved is not available to its agent's next call.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from aios_core.context.placement import ImageView, Move, Rates, plan_moves
from aios_core.core import Core, load_of
from aios_core.errors import KernelBug, SnapshotError
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.private_files import make_directory, make_file
from aios_core.snapshot import KVImage, Snapshot, Tier

log = logging.getLogger(__name__)

Key = tuple[str, int]  # ("call", id) or ("agent", pid)
SMOOTHING = 0.3  # weight of the latest measurement of a rate


@dataclass(slots=True, eq=False)
class _Entry:
    """A filed snapshot."""

    key: Key
    core: Core
    snapshot: Snapshot
    last_used: int
    is_moving: bool = False
    is_discarded: bool = False  # while it moved; free it when the move ends
    is_lost: bool = False  # its core died while it moved
    is_stuck: bool = False  # it could not be moved and must not be dropped

    @property
    def image(self) -> KVImage:
        if self.snapshot.kv is None:
            raise KernelBug(f"{self.key} has no KV image")
        return self.snapshot.kv


class ContextSwitcher:
    """The snapshots of calls, the contexts of agents, and the memory that they occupy.

    Invariants (see `check`): at most one entry a key; host and disk do not hold more
    than their bounds once no move is in progress, unless their images must not be
    dropped.

    Args:
        host_bytes, disk_bytes: bounds of the tiers.
        watermark: share of a core's KV memory above which images leave it.
        directory: for the files of the disk tier; None for a temporary one.
        on_moving: called when the image of a suspended call starts and ends moving.
    """

    def __init__(
        self,
        *,
        host_bytes: int,
        disk_bytes: int,
        watermark: float,
        directory: str | None,
        events: EventStream,
        now: Callable[[], float],
    ) -> None:
        self._bounds = {Tier.HOST: host_bytes, Tier.DISK: disk_bytes}
        self._watermark = watermark
        self._given_directory = directory
        self._directory: Path | None = None
        self._events = events
        self._now = now
        self.on_moving: Callable[[int, bool], None] = lambda _call, _moving: None
        self._entries: dict[Key, _Entry] = {}
        self._uses = count()
        self._rates: dict[Tier, float] = {}
        self._worker: ThreadPoolExecutor | None = None
        self._moves: set[asyncio.Task[None]] = set()
        self._files = count()
        self._pinned: set[Key] = set()

    def __repr__(self) -> str:
        held = {tier.name.lower(): self.num_bytes(tier) for tier in Tier}
        return f"<ContextSwitcher: {len(self._entries)} snapshots, bytes {held}>"

    def num_bytes(self, tier: Tier) -> int:
        """Bytes of KV images in a tier."""
        return sum(
            e.snapshot.kv.num_bytes
            for e in self._entries.values()
            if e.snapshot.kv is not None and e.snapshot.kv.tier is tier
        )

    # --- suspended calls ---------------------------------------------------------------------

    def save(self, call_id: int, core: Core, snapshot: Snapshot) -> None:
        """Keep the snapshot of a suspended call."""
        self._file(("call", call_id), core, snapshot)

    def restore(self, call_id: int) -> Snapshot | None:
        """Remove and return the snapshot of a suspended call; the caller then owns it."""
        if not self._entries:
            return None
        entry = self._entries.get(("call", call_id))
        if entry is None:
            return None
        if entry.is_moving:
            raise KernelBug(f"call {call_id} resumes while its image moves")
        del self._entries[entry.key]
        return entry.snapshot

    def peek(self, call_id: int) -> Snapshot | None:
        """Return the snapshot of a suspended call without removing it."""
        entry = self._entries.get(("call", call_id))
        return entry.snapshot if entry else None

    @contextmanager
    def pinned(self, call_ids: Iterable[int]) -> Iterator[None]:
        """Start no move of these calls' images in this block. Nothing may resume them either."""
        still = {("call", call_id) for call_id in call_ids}
        self._pinned |= still
        try:
            yield
        finally:
            self._pinned -= still

    async def wait_idle(self) -> None:
        """Wait until no move is in progress."""
        while self._moves:
            await asyncio.wait(tuple(self._moves))

    async def import_snapshot(
        self, snapshot: Snapshot, image: Path, route: Sequence[Core]
    ) -> Snapshot:
        """Prepare a loaded snapshot, with a copy of its KV image if a core of the route takes it.

        Without an image the tokens are computed again, which is as exact on most cores.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="aios-context")
        core = next((c for c in route if c.capabilities.kv_snapshots), None)
        if core is None:
            return snapshot
        return await asyncio.get_running_loop().run_in_executor(
            self._worker, self._open_copy, snapshot, image, core
        )

    def _open_copy(self, snapshot: Snapshot, image: Path, core: Core) -> Snapshot:
        copy = self._new_path()
        try:
            make_file(copy)
            shutil.copyfile(image, copy)
            return replace(snapshot, kv=core.open_image(copy))
        except (OSError, SnapshotError) as exc:
            copy.unlink(missing_ok=True)
            log.warning("the KV image %s is not used: %s", image.name, exc)
            return snapshot

    def discard(self, call_id: int) -> None:
        """Free the snapshot of a call that will not continue."""
        if self._entries:
            self._drop(("call", call_id))

    # --- contexts between calls --------------------------------------------------------------

    def keep_warm(self, pid: int, core: Core, context: Snapshot) -> None:
        """Keep the context of an agent for its next call, in place of an older one."""
        self._drop(("agent", pid))
        self._file(("agent", pid), core, context)
        self.make_room(core)

    def take_warm(self, pid: int, core: Core) -> Snapshot | None:
        """Remove and return the context that the agent left on that core, if there is one."""
        entry = self._entries.get(("agent", pid))
        if entry is None or entry.core is not core or entry.is_moving:
            return None
        del self._entries[entry.key]
        return entry.snapshot

    def forget(self, pid: int) -> None:
        """Free the context of an agent that exited."""
        self._drop(("agent", pid))

    def drop_core(self, core: Core) -> None:
        """Drop the KV images of a core that went down; their token ids stay."""
        for entry in tuple(self._entries.values()):
            if entry.core is not core or entry.snapshot.kv is None:
                continue
            if entry.is_moving:
                entry.is_lost = True
            else:
                self._drop_image(entry)

    # --- room --------------------------------------------------------------------------------

    def make_room(self, core: Core, num_tokens: int = 0) -> None:
        """Move images away from a core that runs out of KV memory.

        `num_tokens` is the number of tokens about to be added on the core.
        """
        load = load_of(core)
        if load.kv_capacity is None or not self._entries:
            return
        excess = load.kv_tokens + num_tokens - int(self._watermark * load.kv_capacity)
        if excess > 0:
            excess_bytes = excess * self._bytes_per_token(core)
            self._relieve_tier(Tier.DEVICE, excess_bytes, load.prefill_rate, core)

    def _bound_tiers(self, prefill_rate: float | None) -> None:
        """Move images out of tiers that overflow, after a move or a load."""
        for tier, bound in self._bounds.items():
            excess = self.num_bytes(tier) - bound
            if excess > 0:
                self._relieve_tier(tier, excess, prefill_rate)

    def _relieve_tier(
        self, tier: Tier, excess: float, prefill_rate: float | None, core: Core | None = None
    ) -> None:
        entries = [
            e
            for e in self._entries.values()
            if e.snapshot.kv is not None and not e.is_stuck and (core is None or e.core is core)
        ]
        # Moves that have started will free their bytes; counting them twice would move too much.
        excess -= sum(e.image.num_bytes for e in entries if e.is_moving and e.image.tier is tier)
        views = [_as_view(e) for e in entries if not e.is_moving and e.key not in self._pinned]
        rates = Rates(prefill_rate, self._rates.get(Tier.HOST), self._rates.get(Tier.DISK))
        for move in plan_moves(views, tier, int(excess), rates):
            self._begin(move)

    def _begin(self, move: Move) -> None:
        entry = self._entries[move.key]  # type: ignore[index]
        if move.target is None:
            self._drop_image(entry)
        elif move.target is not entry.image.tier:
            entry.is_moving = True
            if entry.key[0] == "call":
                self.on_moving(entry.key[1], True)
            task = asyncio.get_running_loop().create_task(self._move(entry, move.target))
            self._moves.add(task)
            task.add_done_callback(self._moves.discard)

    async def _move(self, entry: _Entry, target: Tier) -> None:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="aios-context")
        loop = asyncio.get_running_loop()
        try:
            elapsed = await loop.run_in_executor(self._worker, self._carry, entry.image, target)
        except Exception as exc:  # noqa: BLE001 - a full disk, a broken device: continue without
            log.warning("cannot move a KV image to %s: %r", target.name.lower(), exc)
            entry.is_stuck = not _as_view(entry).may_drop
            entry.is_lost = entry.is_lost or not entry.is_stuck
        else:
            rate = entry.image.num_bytes / max(elapsed, 1e-9)
            known = self._rates.get(target, rate)
            self._rates[target] = known + SMOOTHING * (rate - known)
            self._emit_swap(entry, target.name.lower())
        entry.is_moving = False
        if entry.is_discarded:
            entry.image.release()
            return
        if entry.is_lost:
            self._drop_image(entry)
        if entry.key[0] == "call":
            self.on_moving(entry.key[1], False)
        self.make_room(entry.core)
        self._bound_tiers(load_of(entry.core).prefill_rate)

    def _carry(self, image: KVImage, target: Tier) -> float:
        """Move an image, on the worker thread. Returns the duration in seconds."""
        started = perf_counter()
        if target is Tier.HOST:
            image.to_host()
            return perf_counter() - started
        path = self._new_path()
        try:
            image.to_disk(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return perf_counter() - started

    def _new_path(self) -> Path:
        if self._directory is None:
            if self._given_directory is None:
                self._directory = Path(tempfile.mkdtemp(prefix="aios-context-"))
            else:
                self._directory = Path(self._given_directory)
                make_directory(self._directory)
        return self._directory / f"kv-{next(self._files)}.safetensors"

    # --- inside ------------------------------------------------------------------------------

    def _file(self, key: Key, core: Core, snapshot: Snapshot) -> None:
        if key in self._entries:
            raise KernelBug(f"{key} is filed twice")
        self._entries[key] = _Entry(key, core, snapshot, next(self._uses))
        if snapshot.kv is not None and snapshot.kv.tier is not Tier.DEVICE:
            self._bound_tiers(load_of(core).prefill_rate)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if entry.is_moving:
            entry.is_discarded = True
        elif entry.snapshot.kv is not None:
            entry.snapshot.kv.release()

    def _drop_image(self, entry: _Entry) -> None:
        """Free an image that does not move. A call keeps its tokens, an idle agent nothing."""
        entry.image.release()
        if entry.key[0] == "agent":
            del self._entries[entry.key]
        else:
            entry.snapshot = entry.snapshot.without_kv()
        self._emit_swap(entry, "dropped")

    def _bytes_per_token(self, core: Core) -> float:
        images = (
            entry.snapshot.kv
            for entry in self._entries.values()
            if entry.core is core and entry.snapshot.kv is not None
        )
        image = next((image for image in images if image.num_tokens), None)
        return image.num_bytes / image.num_tokens if image else 0.0

    def _emit_swap(self, entry: _Entry, where: str) -> None:
        if self._events:
            kind, number = entry.key
            self._events.emit(
                KernelEvent(
                    self._now(),
                    EventKind.SWAPPED,
                    pid=number if kind == "agent" else None,
                    syscall_id=number if kind == "call" else None,
                    facts={"to": where, "core": entry.core.name},
                )
            )

    async def close(self) -> None:
        """Free everything. Idempotent."""
        for key in tuple(self._entries):
            self._drop(key)
        while self._moves:
            await asyncio.gather(*self._moves, return_exceptions=True)
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.shutdown)
        directory, self._directory = self._directory, None  # the last work may have made it
        if directory is not None and self._given_directory is None:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        for key, entry in self._entries.items():
            if entry.key != key or entry.is_discarded:
                raise KernelBug(f"{key} is filed as {entry}")
        if self._moves:
            return
        for tier, bound in self._bounds.items():
            must_stay = [e for e in self._entries.values() if not _as_view(e).may_drop]
            if self.num_bytes(tier) > bound and not must_stay:
                raise KernelBug(f"{tier.name} holds {self.num_bytes(tier)} of {bound} bytes")


def _as_view(entry: _Entry) -> ImageView:
    image: Any = entry.snapshot.kv
    return ImageView(
        key=entry.key,
        tier=image.tier if image else Tier.HOST,
        num_tokens=image.num_tokens if image else 0,
        num_bytes=image.num_bytes if image else 0,
        last_used=entry.last_used,
        is_suspended=entry.key[0] == "call",
        may_drop=entry.key[0] == "agent"
        or image is None
        or entry.core.capabilities.exact_recompute,
    )
