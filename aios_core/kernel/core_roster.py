"""Add, drain and remove cores of a running kernel.

Each change is a task of its own, which a cancelled caller does not interrupt halfway. Closing the
kernel ends all waits and lets a core that is being closed finish.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from aios_core.clock import Clock
from aios_core.context import ContextSwitcher
from aios_core.core import Core
from aios_core.cores.pool import CorePool
from aios_core.errors import ConfigError, KernelClosed
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.scheduler import Dispatcher
from aios_core.shielding import finish_shielded

T = TypeVar("T")

_POLL_S: Final = 0.01  # between two looks at a core that is draining
_LEAVE_S: Final = 5.0  # for calls to leave a core that is removed, before it is closed


class CoreRoster:
    """The changes of one kernel's cores. Used on the kernel's loop only."""

    def __init__(
        self,
        pool: CorePool,
        dispatcher: Dispatcher,
        contexts: ContextSwitcher,
        *,
        events: EventStream,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._changes = dispatcher.core_changes
        self._contexts = contexts
        self._events = events
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._removals: dict[Core, asyncio.Task[None]] = {}
        self._is_closing = False

    async def add(self, core: Core) -> None:
        """Start a core and let it serve. Raises `ConfigError` and `BackendError`."""
        self._pool.require_new(core)
        await self._run(self._add(core))

    async def drain(self, name: str, *, preempt: bool, timeout_s: float | None) -> bool:
        """Give a core no further calls, and wait for those that it has. False at the time limit."""
        core = self._pool[name]
        self._begin_to_drain(core)
        if preempt:
            self._changes.send_away(core)
        return await self._wait_until_idle(core, timeout_s)

    def resume(self, name: str) -> None:
        """Give calls to a core again that was draining; changes nothing for other cores."""
        core = self._pool[name]
        if core in self._removals:
            raise ConfigError("core", name, "a core that is not being removed")
        if name not in self._pool.draining:
            return
        self._changes.stay(core)
        self._pool.resume(name)
        self._emit(EventKind.CORE_UP, core)
        self._changes.routes_changed()

    async def remove(self, name: str, *, preempt: bool, timeout_s: float | None) -> None:
        """Drain a core, close it and forget it."""
        core = self._pool[name]
        if not await self.drain(name, preempt=preempt, timeout_s=timeout_s):
            self._begin_to_drain(core)
            self._changes.send_away(core)
            await self._wait_until_idle(core, _LEAVE_S)
        if core not in self._removals:
            if core not in self._pool:  # another caller has removed it meanwhile
                return
            self._removals[core] = asyncio.get_running_loop().create_task(self._close(core))
            self._removals[core].add_done_callback(lambda _: self._removals.pop(core, None))
            self._keep(self._removals[core])
        await asyncio.shield(self._removals[core])

    async def close(self) -> None:
        """End all waits, and wait until no change is in progress."""
        self._is_closing = True
        for task in self._tasks - set(self._removals.values()):
            task.cancel()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    # --- steps --------------------------------------------------------------------------------

    async def _add(self, core: Core) -> None:
        try:
            await core.start(self._dispatcher.sink(core))
        except asyncio.CancelledError:
            await finish_shielded(core.close())
            raise
        try:
            self._pool.add(core)
        except ConfigError:  # another of that name was quicker
            await finish_shielded(core.close())
            raise
        self._emit(EventKind.CORE_UP, core)
        self._changes.routes_changed()

    def _begin_to_drain(self, core: Core) -> None:
        if core.name not in self._pool.draining:
            self._pool.drain(core.name)
            self._emit(EventKind.CORE_DRAINING, core)
            self._changes.routes_changed()

    async def _wait_until_idle(self, core: Core, timeout_s: float | None) -> bool:
        """Wait for the calls of a draining core. False if some are left at the time limit."""
        end = None if timeout_s is None else self._clock.now() + timeout_s
        while True:
            if self._is_closing:
                raise KernelClosed("the kernel is shutting down")
            if core not in self._pool or not self._changes.num_left(core):
                return True
            if end is not None and self._clock.now() >= end:
                return False
            if core.name not in self._pool.draining:  # it was resumed by another caller
                return False
            await asyncio.sleep(_POLL_S)

    async def _close(self, core: Core) -> None:
        """Close a core and forget it. Calls that are left on it go elsewhere, or fail."""
        await self._changes.stop_restart(core)
        self._changes.leave(core)
        await self._contexts.wait_idle()
        self._pool.remove(core.name)
        self._changes.routes_changed()
        try:
            await core.close()
        finally:
            self._dispatcher.handle_reports()
            self._changes.forget(core)
            self._emit(EventKind.CORE_REMOVED, core)

    async def _run(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change in a task, which ends with the kernel, or with its caller."""
        task = self._keep(asyncio.get_running_loop().create_task(change))
        try:
            return await task
        except asyncio.CancelledError:
            if self._is_closing:
                raise KernelClosed("the kernel is shutting down") from None
            raise

    def _keep(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _emit(self, kind: EventKind, core: Core) -> None:
        self._events.emit(KernelEvent(self._clock.now(), kind, facts={"core": core.name}))
