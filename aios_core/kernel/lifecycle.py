"""The lives of agents, on the kernel's loop: born, frozen, thawed, saved, loaded, ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from aios_core.budget import Cost
from aios_core.context import SavedAgent, SavedCall, require_savable
from aios_core.core import Core
from aios_core.errors import InvalidRequest, NoSuchObject, SnapshotError, SyscallCancelled
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.kernel.port import ThreadAnswer
from aios_core.kernel.streams import Cancellable
from aios_core.kernel.wiring import Components
from aios_core.messages import Completion
from aios_core.options import LoadedOptions, SubmitOptions
from aios_core.process import AgentProcess, ProcessState, ProcessTable
from aios_core.scheduler.call import Answer
from aios_core.syscalls import LLMGenerate

log = logging.getLogger(__name__)

Post = Callable[[AgentProcess, LLMGenerate, Answer, SubmitOptions], Cancellable]


class Lifecycle:
    """Spawns, freezes, saves, loads and exits the agents of one kernel."""

    def __init__(
        self, parts: Components, processes: ProcessTable, events: EventStream, post: Post
    ) -> None:
        """`post` brings a call to the loop, as a caller's would come."""
        self._parts, self._processes, self._events, self._post = parts, processes, events, post

    def spawn(self, name: str, **settings: Unpack[LoadedOptions]) -> AgentProcess:
        process = self._processes.spawn(name, now=self._parts.clock.now(), **settings)
        self._emit(
            EventKind.AGENT_SPAWNED,
            process,
            name=name,
            group=process.group.name,
            identity=process.identity,
        )
        return process

    def exit(self, pid: int) -> None:
        try:
            head = self._processes.get(pid)
        except NoSuchObject:
            return
        for process in tuple(head.family()):
            self._parts.forget(process, SyscallCancelled(f"agent {process.name!r} exited"))
            self._processes.remove(process)
            self._emit(EventKind.AGENT_EXITED, process)

    async def freeze(self, pid: int) -> None:
        process = self._processes.get(pid)
        if process.state is ProcessState.ACTIVE:
            process.state = ProcessState.FROZEN
            self._emit(EventKind.AGENT_FROZEN, process)
        await self._parts.dispatcher.freeze(process)

    def thaw(self, pid: int) -> None:
        process = self._processes.get(pid)
        if process.state is ProcessState.FROZEN:
            process.state = ProcessState.ACTIVE
            self._emit(EventKind.AGENT_THAWED, process)
            self._parts.dispatcher.thaw(process)

    async def save(self, pid: int, directory: Path) -> None:
        process = self._processes.get(pid)
        was_active = process.state is ProcessState.ACTIVE
        self._require_savable(process)
        await self.freeze(pid)
        try:
            self._require_savable(process)  # calls may have come meanwhile
            await self._write(process, directory)
        except BaseException:
            if was_active and process.state is ProcessState.FROZEN:
                self.thaw(pid)
            raise

    async def _write(self, process: AgentProcess, directory: Path) -> None:
        calls, contexts = self._parts.dispatcher.calls_of(process), self._parts.contexts
        with contexts.pinned(call.syscall.id for call in calls):
            await contexts.wait_idle()
            frozen = SavedAgent.of(
                process,
                [
                    SavedCall(
                        call.syscall.request,
                        call.syscall.priority,
                        contexts.peek(call.syscall.id) or call.resume_from,
                    )
                    for call in calls
                ],
                self._parts.clock.now(),
            )
            # The calls in flight pay their cost so far again in the kernel that loads them.
            booked = sum((call.booked for call in calls), Cost())
            frozen = replace(frozen, spent=frozen.spent - booked)
            await asyncio.to_thread(frozen.write, directory)

    def _require_savable(self, process: AgentProcess) -> None:
        """Look at the calls that wait; one that no core can preempt ends before a save."""
        for call in self._parts.dispatcher.calls_of(process):
            if call.core is None:
                require_savable(process.name, call.syscall.id, call.syscall.request)

    async def load(self, directory: Path) -> tuple[AgentProcess, Sequence[Future[Completion]]]:
        """Load an agent. Returns it with the pending answers of its calls, which continue."""
        frozen = await asyncio.to_thread(SavedAgent.read, directory)
        routes = [self._parts.pool.route(call.request.model) for call in frozen.calls]
        process = self._revive(frozen)
        try:
            return process, await self._resume(process, frozen, routes)
        except BaseException:
            self.exit(process.pid)
            raise

    def _revive(self, frozen: SavedAgent) -> AgentProcess:
        """Spawn a saved agent. Raises `SnapshotError` if the saved data is not valid."""
        try:
            process = self.spawn(
                frozen.name,
                identity=frozen.identity or None,
                group=frozen.group,
                priority=frozen.priority,
                weight=frozen.weight,
                budget=frozen.budget,
            )
        except InvalidRequest as exc:
            raise SnapshotError(f"the saved agent cannot be spawned: {exc}") from exc
        if frozen.identity not in ("", process.identity):
            log.warning(
                "agent %r is alive; the loaded agent is a copy of it, %r, "
                "without its memory and files",
                frozen.identity,
                process.identity,
            )
        process.take_labels(frozen.labels)
        process.budget.spent.add(frozen.spent)
        process.accounting = frozen.accounting
        process.spawned_at -= frozen.age_s
        if process.wall is not None:
            process.wall = replace(process.wall, at=process.wall.at - frozen.age_s)
        return process

    async def _resume(
        self, process: AgentProcess, frozen: SavedAgent, routes: Sequence[Sequence[Core]]
    ) -> Sequence[Future[Completion]]:
        """Continue the calls of a loaded agent. Returns their answers."""
        pending: list[Future[Completion]] = []
        for call, image, route in zip(frozen.calls, frozen.images, routes, strict=True):
            snapshot = call.snapshot
            if snapshot is not None and image is not None:
                snapshot = await self._parts.contexts.import_snapshot(snapshot, image, route)
            answer = ThreadAnswer()
            pending.append(answer.future)
            options: SubmitOptions = {"priority": call.priority, "resume_from": snapshot}
            submission = self._post(process, call.request, answer, options)
            answer.future.add_done_callback(partial(_withdraw_if_cancelled, submission))
        return pending

    def _emit(self, kind: EventKind, process: AgentProcess, **facts: Any) -> None:
        if self._events:
            now = self._parts.clock.now()
            self._events.emit(KernelEvent(now, kind, process.pid, facts=facts))


def _withdraw_if_cancelled(call: Cancellable, answer: Future[Completion]) -> None:
    """Cancel the call if the holder of its answer has cancelled it."""
    if answer.cancelled():
        call.withdraw()
