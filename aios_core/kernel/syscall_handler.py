"""Serve the syscalls that need no core: check, perform, account, answer.

    accept ──> (prepare) ──> check access ──> (wait for approval) ──> perform ──> record ──> answer

Promises: no request reaches a manager unchecked; every accepted one is answered
exactly once, within its deadline; a request that was cancelled, or of an agent that exited,
continues nowhere. Everything here runs on the kernel's loop; the managers keep blocking work
off it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from aios_core.clock import Clock, Timer
from aios_core.errors import (
    BackendError,
    DeadlineExceeded,
    InvalidRequest,
    KernelBug,
    KernelClosed,
    KernelError,
    SyscallCancelled,
)
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.kernel.provenance import LabelledTexts
from aios_core.labels import Labeled
from aios_core.manager import Gatekeeper, Manager, waiting_for
from aios_core.process import AgentProcess, ProcessState
from aios_core.syscalls import Request, SyscallState
from aios_core.untrusted.arguments import require_number
from aios_core.untrusted.third_party import (
    OF_THE_LOOP,
    RAISED,
    describe,
    detach,
    log_raised,
    pass_on,
)
from aios_core.wait_reason import Doing, noting

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Pending:
    """A request in flight."""

    id: int
    process: AgentProcess
    request: Request[Any]
    submitted_at: float
    task: asyncio.Task[Any] | None = None
    num_cancelled: int = 0  # how often the task had been cancelled when the request began
    reason: KernelError | None = None  # why it was cancelled, if the kernel did that
    waits_for: object = None  # what the gatekeeper wants to have awaited
    served_by: str = ""
    detail: Doing = field(default_factory=Doing)
    is_interrupted: bool = False  # the cancellation reached it

    @property
    def doing(self) -> str:
        """For people: what the request is busy with."""
        if self.waits_for is not None:
            return waiting_for(self.waits_for)
        if self.detail.text:
            return self.detail.text
        return f"served by the {self.served_by} manager"

    @property
    def is_withdrawn(self) -> bool:
        """Whether its caller's task was cancelled by someone other than the kernel."""
        ours = self.reason is not None
        return self.task is not None and self.task.cancelling() - ours > self.num_cancelled


class SyscallHandler:
    """Serves the requests that need no core. `ids` numbers syscalls, as for the dispatcher."""

    def __init__(
        self,
        managers: Iterable[Manager],
        gatekeeper: Gatekeeper,
        *,
        ids: Iterator[int],
        clock: Clock,
        events: EventStream,
        default_timeout_s: float | None = None,
        texts: LabelledTexts | None = None,
    ) -> None:
        self._texts = LabelledTexts() if texts is None else texts
        self.managers = tuple(managers)
        self._by_request = {kind: m for m in self.managers for kind in m.requests}
        self._gatekeeper = gatekeeper
        self._ids = ids
        self._clock = clock
        self._events = events
        self._default_timeout_s = default_timeout_s
        self._pending: dict[int, _Pending] = {}
        self._is_closing = False

    def __repr__(self) -> str:
        return f"<SyscallHandler: {len(self._pending)} requests in flight>"

    @property
    def num_in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._pending)

    async def start(self) -> None:
        """Start the managers, in order."""
        for manager in self.managers:
            await manager.start()

    async def perform(
        self, process: AgentProcess, request: Request[Any], *, timeout_s: float | None = None
    ) -> Any:
        """Serve one request, from its acceptance to its answer. Cancelling the await ends it."""
        manager = self._by_request.get(type(request))
        if manager is None:
            raise InvalidRequest(f"no manager serves {type(request).__name__} requests")
        require_number("timeout_s", timeout_s, at_least=0.0)
        if self._is_closing:
            raise KernelClosed("the kernel is shutting down")
        if process.state is ProcessState.EXITED:
            raise SyscallCancelled(f"agent {process.name!r} has exited")
        trap = _Pending(next(self._ids), process, request, self._clock.now())
        trap.task = asyncio.current_task()
        trap.num_cancelled = trap.task.cancelling() if trap.task is not None else 0
        self._pending[trap.id] = trap
        self._emit(EventKind.SUBMITTED, trap, request=request.kind)
        timer = self._timer(trap, self._default_timeout_s if timeout_s is None else timeout_s)
        try:
            with noting(trap.detail):
                return await self._answer(trap, manager)
        finally:
            if timer is not None:
                timer.cancel()
            self._pending.pop(trap.id, None)
            await _take_back_cancellation(trap)

    def _timer(self, trap: _Pending, timeout_s: float | None) -> Timer | None:
        if timeout_s is None:
            return None
        late = self._clock.now() + timeout_s
        return self._clock.call_at(late, lambda: self._expire(trap, timeout_s))

    async def _answer(self, trap: _Pending, manager: Manager) -> Any:
        """Serve a request and keep the books of how that ended."""
        try:
            answer = await self._serve(trap, manager)
            if trap.is_withdrawn:  # and the manager took no notice
                raise asyncio.CancelledError  # noqa: TRY301 - its caller waits for it
        except asyncio.CancelledError:
            trap.is_interrupted = True
            reason = trap.reason or SyscallCancelled("withdrawn by its caller")
            self._end(trap, SyscallState.CANCELLED, reason)
            if trap.reason is None or trap.is_withdrawn:
                raise
            raise trap.reason from None
        except KernelError as exc:
            trap.process.take_labels(exc.labels)
            self._end(trap, SyscallState.FAILED, exc)
            raise
        except OF_THE_LOOP:
            raise
        except RAISED as exc:  # of a third-party manager
            pass_on(exc)
            error = BackendError(f"{trap.request.kind} failed: {describe(exc)}")
            self._end(trap, SyscallState.FAILED, error)
            raise error from detach(exc)
        self._end(trap, SyscallState.DONE)
        return answer

    async def _serve(self, trap: _Pending, manager: Manager) -> Any:
        process, request = trap.process, trap.request
        trap.served_by = manager.name
        if (prepare := getattr(manager, "prepare", None)) is not None:
            request = await prepare(process, request)
        self._texts.mark(process, trap.request)
        access = request.access(process.identity)
        waiting = self._gatekeeper.authorize(process, access)
        if waiting is not None:
            trap.waits_for = waiting
            await waiting
            trap.waits_for = None
        self._emit(EventKind.DISPATCHED, trap, manager=manager.name)
        try:
            answer = await manager.perform(process, request)
        except BaseException as exc:
            self._gatekeeper.record(process, access, type(exc).__name__)
            raise
        self._gatekeeper.record(process, access, "done")
        if isinstance(answer, Labeled):
            process.take_labels(answer.labels)
            self._texts.remember_answer(answer, process.name)
            return answer.value
        return answer

    def cancel_all(self, process: AgentProcess, reason: KernelError) -> None:
        """End the requests of an agent."""
        for trap in tuple(self._pending.values()):
            if trap.process.pid == process.pid:  # or a stand-in for it
                self._cancel(trap, reason)

    def forget(self, process: AgentProcess) -> None:
        """An agent exited."""
        for manager in self.managers:
            try:
                manager.forget(process)
            except RAISED as exc:  # the others hold something for it as well
                pass_on(exc)
                log_raised(log, exc, "the %s manager could not forget an agent", manager.name)

    async def drain(self, timeout_s: float, caller: asyncio.Task[Any] | None = None) -> None:
        """Refuse new requests; wait `timeout_s` for those in flight, then cancel them.

        A request that is served by `caller`, the task that closes the kernel, is not waited for.
        """
        self._is_closing = True
        tasks = {trap.task for trap in self._pending.values() if trap.task is not None}
        tasks.discard(caller or asyncio.current_task())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for trap in tuple(self._pending.values()):
            self._cancel(trap, KernelClosed("the kernel shut down first"))
        if late:
            await asyncio.wait(late)

    async def close(self, caller: asyncio.Task[Any] | None = None) -> None:
        """Cancel what is left and close the managers, the last one first. See `drain`."""
        await self.drain(0, caller)
        async with AsyncExitStack() as stack:  # which closes the last one first, and all of them
            for manager in self.managers:
                stack.push_async_callback(manager.close)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds, the managers' among them."""
        for trap in self._pending.values():
            if trap.task is None or trap.task.done():
                raise KernelBug(f"request {trap.id} is in flight and no task serves it")
        for manager in self.managers:
            manager.check()

    # --- inside ------------------------------------------------------------------------------

    def _expire(self, trap: _Pending, timeout_s: float) -> None:
        self._cancel(trap, DeadlineExceeded(timeout_s, trap.doing))

    def _cancel(self, trap: _Pending, reason: KernelError) -> None:
        task = trap.task
        if trap.id not in self._pending or trap.reason is not None or task is None:
            return
        if (
            task.cancelling() <= trap.num_cancelled
        ):  # else its caller has cancelled it and gets no answer
            trap.reason = reason
            task.cancel()

    def _end(self, trap: _Pending, outcome: SyscallState, error: KernelError | None = None) -> None:
        books = trap.process.accounting
        books.num_requests[trap.request.kind] += 1
        books.num_failed += outcome is SyscallState.FAILED
        facts = {"error": type(error).__name__, "reason": str(error)} if error else {}
        self._emit(
            EventKind[outcome.name], trap, took_s=self._clock.now() - trap.submitted_at, **facts
        )

    def _emit(self, kind: EventKind, trap: _Pending, **facts: Any) -> None:
        if self._events:
            now = self._clock.now()
            self._events.emit(KernelEvent(now, kind, trap.process.pid, trap.id, facts))


async def _take_back_cancellation(trap: _Pending) -> None:
    """Undo the cancellation of the caller's task if it was the kernel that cancelled it."""
    if trap.task is None or trap.reason is None:
        return
    if not trap.is_interrupted:
        with suppress(asyncio.CancelledError):  # which is still to come if nothing awaited since
            await asyncio.sleep(0)
    is_withdrawn = trap.is_withdrawn
    trap.task.uncancel()
    if is_withdrawn and not trap.is_interrupted:
        raise asyncio.CancelledError
