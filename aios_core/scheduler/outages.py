"""Handle the calls of cores that die, stay down, or come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aios_core.core import NO_ROOM, Core, Failed, load_of
from aios_core.errors import CoreError, KernelError, RateLimited
from aios_core.scheduler.call import Call
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.protocols import Cores
from aios_core.scheduler.waiting_calls import Route, Ticket


@dataclass(frozen=True, slots=True)
class Steps:
    """What the dispatcher does for a call, as far as outages need it."""

    attempt: Callable[..., object]  # a step that concerns one call only
    failed: Callable[[Call, Core, Failed], object]
    fail: Callable[[Call, KernelError], object]
    prepare: Callable[[Call], object]
    withdraw: Callable[[Call, Ticket], object]
    watch: Callable[[asyncio.Future[Any]], object]


class Outages:
    """Moves calls off dead cores, and refuses those that wait for one in vain.

    `core_wait_s` is how long calls wait for a core that is down.
    """

    def __init__(
        self, state: DispatchState, cores: Cores, *, steps: Steps, core_wait_s: float
    ) -> None:
        self._scheduler = state.scheduler
        self._cores = cores
        self._contexts = state.contexts
        self._keeper = state.keeper
        self._clock = state.clock
        self._do = steps
        self._calls = state.calls
        self._running = state.running
        self._core_wait_s = core_wait_s

    def died(self, core: Core, error: KernelError) -> None:
        """Fail what the core still held, free its pinned calls, and try to start it again later."""
        for call in [c for c in self._running.values() if c.core is core]:
            failed = Failed(call.syscall.id, error)
            self._do.attempt(call, self._do.failed, core, failed)
        for ticket in tuple(self._scheduler.waiting()):
            if not any(other is not core and self._keeper.is_up(other) for other in ticket.route):
                self._scheduler.reroute(ticket, self._calls[ticket.syscall.id].route)
        self._contexts.drop_core(core)
        if self._keeper.died(core, error) and not self._keeper.is_closing:
            self.revive(core)
            self._turn_to_stand_ins()

    def revive(self, core: Core) -> None:
        """Start a core again until it serves; refuse calls that wait for it too long."""
        self._do.watch(asyncio.ensure_future(self._keeper.revive(core)))
        self._clock.call_at(self._clock.now() + self._core_wait_s, self._refuse_stranded)

    def next_available_in_s(self) -> float | None:
        """Return when the first wanted core takes calls again; None: none is pausing.

        One that cannot say how full it is counts as down.
        """
        loads = {core: load_of(core) for core in self._scheduler.wanted_cores()}
        for core in [core for core, load in loads.items() if load is NO_ROOM]:
            self.died(core, CoreError(core.name, "could not say how full it is"))
        pauses = [load.available_in_s for load in loads.values() if load.available_in_s > 0]
        return min(pauses, default=None)

    def refuse_paused(self, max_retry_s: float) -> None:
        """Fail waiting calls all of whose cores take nothing for longer than calls are patient.

        Calls that are held, or have a part of their answer, go on waiting.
        """
        pauses = {core: load_of(core).available_in_s for core in self._scheduler.wanted_cores()}
        for ticket in tuple(self._scheduler.waiting()):
            call = self._calls[ticket.syscall.id]
            up = [core for core in ticket.route if self._keeper.is_up(core)]
            pause_s = min((pauses.get(core, 0.0) for core in up), default=0.0)
            if pause_s > max_retry_s and not (ticket.holds or call.has_partial_answer):
                reason = f"{up[0].name!r} takes no call for {pause_s:,.0f} s"
                self._do.fail(call, RateLimited(f"core {reason}", pause_s))

    def refuse_if_stranded(self, call: Call) -> None:
        """Fail a waiting call of which no core is up."""
        if call.is_answered or call.core is not None or self._keeper.has_core(call):
            return
        error = self._cores.unavailable(call.syscall.request.model, self._clock.now())
        self._do.fail(call, error)

    def _refuse_stranded(self) -> None:
        for ticket in tuple(self._scheduler.waiting()):
            self.refuse_if_stranded(self._calls[ticket.syscall.id])

    def _turn_to_stand_ins(self) -> None:
        """Reroute calls that have not begun and have no core left to a fallback model."""
        for ticket in tuple(self._scheduler.waiting()):
            call = self._calls[ticket.syscall.id]
            if call.syscall.num_tokens or self._keeper.has_core(call):
                continue
            route = self._cores.route(call.syscall.request.model)
            if route != call.route:
                self._do.attempt(call, self._start_over, ticket, route)

    def _start_over(self, call: Call, ticket: Ticket, route: Route) -> None:
        """Have a call that has not begun served by other cores."""
        self._do.withdraw(call, ticket)
        call.start_over(route)
        self._do.prepare(call)
