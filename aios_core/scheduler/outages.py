"""Handle the calls of cores that go down, stay down, or come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aios_core.core import NO_ROOM, Core, CoreDown, Failed, LoadChanged, Starting, load_of
from aios_core.errors import CoreError, KernelError, RateLimited
from aios_core.events import EventKind
from aios_core.scheduler.call import Call
from aios_core.scheduler.continuation import cores_to_continue, loss_of
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.protocols import Cores
from aios_core.scheduler.waiting_calls import Route, Ticket
from aios_core.shielding import finish_shielded


@dataclass(frozen=True, slots=True)
class Steps:
    """The operations of the dispatcher that outages use."""

    attempt: Callable[..., object]  # runs a step so that an exception fails one call only
    failed: Callable[[Call, Core, Failed], object]
    fail: Callable[[Call, KernelError], object]
    prepare: Callable[[Call], object]
    watch: Callable[[asyncio.Future[Any]], object]


class Outages:
    """Moves calls off cores that are down, and fails those that wait for one too long.

    `core_wait_s` is how long calls wait for a core that is down.
    """

    def __init__(
        self, state: DispatchState, cores: Cores, *, steps: Steps, core_wait_s: float
    ) -> None:
        self._scheduler = state.scheduler
        self._cores = cores
        self._contexts = state.contexts
        self._supervisor = state.supervisor
        self._clock = state.clock
        self._do = steps
        self._calls = state.calls
        self._running = state.running
        self._core_wait_s = core_wait_s
        self._spending = state.spending
        state.fail_unserved = self.fail_later
        self._restarts: dict[Core, asyncio.Future[None]] = {}

    def take(self, core: Core, report: CoreDown | LoadChanged | Starting) -> None:
        """Handle a report about a core itself."""
        match report:
            case CoreDown(error):
                self.core_down(core, error)
            case Starting(stage):
                self._supervisor.emit(EventKind.CORE_STARTING, core, stage=stage)
            case LoadChanged():
                pass  # dispatching after the batch is all that it asks for

    def core_down(self, core: Core, error: KernelError) -> None:
        """Fail the calls of a core that went down, reroute its waiting calls, and restart it.

        A core that was removed meanwhile is not started again.
        """
        for call in [c for c in self._running.values() if c.core is core]:
            failed = Failed(call.syscall.id, error)
            self._do.attempt(call, self._do.failed, core, failed)
        for ticket in tuple(self._scheduler.waiting()):
            if not any(
                other is not core and self._supervisor.is_up(other) for other in ticket.route
            ):
                self._scheduler.reroute(ticket, self._route_of(self._calls[ticket.syscall.id]))
        self._contexts.drop_core(core)
        self._scheduler.books.forget_core(core)  # its memory is empty when it starts again
        if core not in self._cores:
            return
        if self._supervisor.mark_down(core, error) and not self._supervisor.is_closing:
            self.restart_core(core)
            self._reroute_to_fallbacks()

    def _route_of(self, call: Call) -> Route:
        """Return the cores that can serve a waiting call, from its snapshot if it has one."""
        snapshot = self._contexts.peek(call.syscall.id) or call.resume_from
        return cores_to_continue(call.route, snapshot) or call.route

    def cores_started(self) -> None:
        """Emit which cores are up after the start, and restart those that failed."""
        for core in self._cores:
            if self._supervisor.is_up(core):
                self._supervisor.emit(EventKind.CORE_UP, core)
            else:
                self.restart_core(core)

    def restart_core(self, core: Core) -> None:
        """Start a core until it serves, and fail the calls that wait for it too long."""
        restart = asyncio.ensure_future(self._supervisor.restart(core))
        self._do.watch(restart)
        self._restarts[core] = restart
        restart.add_done_callback(lambda _: self._restarts.pop(core, None))
        self._clock.call_at(self._clock.now() + self._core_wait_s, self._fail_unservable)

    async def stop_restart(self, core: Core) -> None:
        """Stop the attempts to start a core that is down."""
        restart = self._restarts.get(core)
        if restart is not None:
            restart.cancel()
            await finish_shielded(asyncio.wait([restart]))

    def fail_later(self, call: Call) -> None:
        """Fail a call after `core_wait_s`, if no core can serve it then."""
        when = self._clock.now() + self._core_wait_s
        call.timers.append(self._clock.call_at(when, partial(self.fail_if_unservable, call)))

    def next_available_in_s(self) -> float | None:
        """Return the seconds until the first paused core accepts calls; None if none pauses.

        Only cores that a waiting call could use count. A core that fails to report its load
        is treated as down.
        """
        loads = {core: load_of(core) for core in self._scheduler.wanted_cores()}
        for core in [core for core, load in loads.items() if load is NO_ROOM]:
            self.core_down(core, CoreError(core.name, "could not report its load"))
        pauses = [load.available_in_s for load in loads.values() if load.available_in_s > 0]
        return min(pauses, default=None)

    def refuse_paused(self, max_retry_s: float) -> None:
        """Fail waiting calls if all of their cores pause for longer than `max_retry_s`.

        Calls that are held, or have a part of their answer, continue to wait.
        """
        pauses = {core: load_of(core).available_in_s for core in self._scheduler.wanted_cores()}
        for ticket in tuple(self._scheduler.waiting()):
            call = self._calls[ticket.syscall.id]
            up = [core for core in ticket.route if self._supervisor.is_up(core)]
            pause_s = min((pauses.get(core, 0.0) for core in up), default=0.0)
            if pause_s > max_retry_s and not (ticket.holds or call.has_partial_answer):
                reason = f"{up[0].name!r} takes no call for {pause_s:,.0f} s"
                self._do.fail(call, RateLimited(f"core {reason}", pause_s))

    def fail_if_unservable(self, call: Call) -> None:
        """Fail a waiting call that no core can serve because all of them are down."""
        if call.is_answered or call.core is not None or self._supervisor.has_core(call):
            return
        error = self._cores.unavailable(call.syscall.request.model, self._clock.now())
        self._do.fail(call, loss_of(call, call.route[0], error))

    def _fail_unservable(self) -> None:
        for ticket in tuple(self._scheduler.waiting()):
            self.fail_if_unservable(self._calls[ticket.syscall.id])

    def _reroute_to_fallbacks(self) -> None:
        """Reroute calls to a fallback model if they have no core left and no answer yet."""
        for ticket in tuple(self._scheduler.waiting()):
            call = self._calls[ticket.syscall.id]
            if call.syscall.num_tokens or self._supervisor.has_core(call):
                continue
            route = self._cores.route(call.syscall.request.model)
            if route != call.route:
                self._do.attempt(call, self.restart_call, ticket, route)

    def restart_call(self, call: Call, ticket: Ticket, route: Route) -> None:
        """Prepare a waiting call that has not started yet for other cores."""
        self._scheduler.withdraw(ticket, self._clock.now())
        self._spending.queue.discard(call)
        self._contexts.discard(call.syscall.id)
        call.restart(route)
        self._do.prepare(call)
