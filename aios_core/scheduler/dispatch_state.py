"""The state that the parts of one dispatcher share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aios_core.clock import Clock
from aios_core.core import Core
from aios_core.errors import KernelBug
from aios_core.process import AgentProcess, ProcessState
from aios_core.scheduler.call import Call
from aios_core.scheduler.call_events import CallEvents
from aios_core.scheduler.protocols import Contexts
from aios_core.scheduler.recovery import CoreSupervisor
from aios_core.scheduler.scheduler import Scheduler
from aios_core.scheduler.spending import Spending
from aios_core.syscalls import SyscallState


class FreezeWaiters:
    """Futures that resolve once no core works for a frozen agent. Used on the kernel's loop."""

    def __init__(self) -> None:
        self.waiters: list[tuple[AgentProcess, asyncio.Future[None]]] = []

    def wait(self, process: AgentProcess, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Return a future that is done when `notify` finds the agent off the cores."""
        waiter: asyncio.Future[None] = loop.create_future()
        self.waiters.append((process, waiter))
        return waiter

    def notify(self, running: Iterable[Call]) -> None:
        """Resolve the futures of agents that have none of the `running` calls."""
        busy = {call.process for call in running if call.process.state is ProcessState.FROZEN}
        waiters, self.waiters = self.waiters, []
        for process, waiter in waiters:
            if process in busy:
                self.waiters.append((process, waiter))
            elif not waiter.done():
                waiter.set_result(None)


@dataclass(slots=True, eq=False)
class DispatchState:
    """The calls of one dispatcher, and the components that serve them.

    Invariants (see `check`): a call is in `calls` from its submit until it is answered and no core
    works on it; it is in `running` while a core does.
    """

    scheduler: Scheduler
    contexts: Contexts
    spending: Spending
    supervisor: CoreSupervisor
    events: CallEvents
    clock: Clock
    dispatch: Callable[[], None]  # fills the free slots
    waiters: FreezeWaiters = field(default_factory=FreezeWaiters)
    calls: dict[int, Call] = field(default_factory=dict)
    running: dict[int, Call] = field(default_factory=dict)  # may be answered already
    fail_unserved: Callable[[Call], object] = lambda _: None  # after a time without a core
    leaving: set[Core] = field(default_factory=set)  # preempted calls continue on other cores

    def _has_place(self, call: Call) -> bool:
        """Return whether an unanswered call is being prepared, waits in a queue, or runs."""
        if call.ticket is None:
            return call.preparing is not None
        is_running = call.syscall.id in self.running
        has_slot = call.syscall.state is SyscallState.RUNNING
        return self.scheduler.has(call.ticket) and is_running == has_slot

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self.scheduler.check()
        self.spending.check()
        for call in self.calls.values():
            if call.is_answered and call.core is None:
                raise KernelBug(f"{call.syscall!r} is answered and was not removed")
            if not call.is_answered and call.syscall.id not in call.process.live_calls:
                raise KernelBug(f"{call.syscall!r} is unknown to its agent")
            if not call.is_answered and not self._has_place(call):
                raise KernelBug(f"{call.syscall!r} has no answer and is in no queue")
        for call in self.running.values():
            if call.core is None:
                raise KernelBug(f"{call.syscall!r} runs on no core")
