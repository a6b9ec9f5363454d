"""Move calls when cores come and go while the kernel runs.

A core that is draining takes no further calls. Calls that wait for it turn to other cores of their
model, or to a fallback. A call that lost its last core waits for one for `core_wait_s`, as it
does while its cores are down. Calls that the core has started end there, or leave it with
their tokens where another core can continue them.
"""

from __future__ import annotations

from aios_core.core import Core, Failed
from aios_core.errors import CoreError
from aios_core.scheduler.call import Call, preempt
from aios_core.scheduler.continuation import cores_to_continue
from aios_core.scheduler.dispatch_state import DispatchState
from aios_core.scheduler.outages import Outages, Steps
from aios_core.scheduler.protocols import Cores
from aios_core.scheduler.waiting_calls import Route, Ticket, served_model


class CoreChanges:
    """Keeps the routes of all calls in step with the cores of the pool."""

    def __init__(
        self, state: DispatchState, cores: Cores, *, steps: Steps, outages: Outages
    ) -> None:
        self._state = state
        self._cores = cores
        self._scheduler = state.scheduler
        self._contexts = state.contexts
        self._do = steps
        self._outages = outages

    def routes_changed(self) -> None:
        """Route the calls without an answer again, after the pool has changed."""
        for call in tuple(self._state.calls.values()):
            if not call.is_answered:
                self._do.attempt(call, self._reroute)
        self._state.dispatch()

    def num_left(self, core: Core) -> int:
        """Return how many calls a core has started and must still end."""
        running = sum(call.core is core for call in self._state.running.values())
        pinned = (t for t in self._scheduler.waiting() if t.route == (core,) and not t.is_held)
        calls = (self._state.calls[ticket.syscall.id] for ticket in pinned)
        return running + sum(map(self._has_started, calls))

    def send_away(self, core: Core) -> None:
        """Let the calls that a core has started leave it, where another core can continue them."""
        self._state.leaving.add(core)
        self._contexts.drop_core(core)
        for ticket in tuple(self._scheduler.waiting()):
            if core in ticket.route:
                call = self._state.calls[ticket.syscall.id]
                self._scheduler.reroute(ticket, self._route_of(call) or (core,))
        for call in tuple(self._state.running.values()):
            if call.core is core and any(c.capabilities.preemptible for c in call.route):
                preempt(core, call.syscall.id)
        self._state.dispatch()

    def stay(self, core: Core) -> None:
        """Let calls that are preempted on a core return to it again."""
        self._state.leaving.discard(core)

    async def stop_restart(self, core: Core) -> None:
        """Stop the attempts to start a core that is down."""
        await self._outages.stop_restart(core)

    def forget(self, core: Core) -> None:
        """Drop all state about a core that was removed and closed; its last calls go elsewhere."""
        for call in [c for c in self._state.running.values() if c.core is core]:
            error = CoreError(core.name, "was removed", is_retryable=True)
            self._do.attempt(call, self._do.failed, core, Failed(call.syscall.id, error))
        self.leave(core)
        for ticket in tuple(self._scheduler.waiting()):
            self._watch(self._state.calls[ticket.syscall.id])
        self._state.leaving.discard(core)
        self._state.dispatch()

    def leave(self, core: Core) -> None:
        """Take all waiting calls off a core that will be closed, and drop the state about it."""
        self._contexts.drop_core(core)
        for ticket in tuple(self._scheduler.waiting()):
            if core in ticket.route:
                call = self._state.calls[ticket.syscall.id]
                self._scheduler.reroute(ticket, self._route_of(call) or call.route)
                self._watch(call)
        self._scheduler.forget_core(core)

    # --- one call -----------------------------------------------------------------------------

    def _reroute(self, call: Call) -> None:
        """Route one call again; prepare it again if it has not started and its model changes."""
        route = self._new_route(call)
        if route == call.route:
            return
        was_absent = self._is_absent(call.route)
        is_alike = not was_absent and served_model(call.syscall.request, route) == call.model
        is_bound = call.core is not None or self._has_started(call)
        if is_bound or is_alike or call.approval is not None or self._is_absent(route):
            call.route = route
            self._turn(call)
        else:
            self._prepare_again(call, route)

    def _new_route(self, call: Call) -> Route:
        """Return the cores for a call: those of the model that serves it, as long as it has any.

        A call that has started never changes its model.
        """
        same = self._cores.serving(call.model)
        is_served = not self._is_absent(same)
        if is_served or call.core is not None or self._has_started(call):
            return same
        return self._cores.route(call.syscall.request.model)

    def _turn(self, call: Call) -> None:
        """Let a waiting call use its new route, if it is not bound to a core by its KV image."""
        ticket = call.ticket
        if ticket is not None and call.core is None and not self._is_pinned(call, ticket):
            self._scheduler.reroute(ticket, self._route_of(call) or call.route)
        self._watch(call)

    def _prepare_again(self, call: Call, route: Route) -> None:
        if call.ticket is not None:
            self._outages.restart_call(call, call.ticket, route)
            return
        preparing, call.preparing = call.preparing, None
        if preparing is not None:
            preparing.cancel()
        call.restart(route)
        self._do.prepare(call)

    def _watch(self, call: Call) -> None:
        """Limit the time for which a call waits for a core of its model."""
        if call.core is None and not self._state.supervisor.has_core(call):
            self._outages.fail_later(call)

    def _route_of(self, call: Call) -> Route:
        """Return the cores that can serve a waiting call, from its snapshot if it has one."""
        snapshot = self._contexts.peek(call.syscall.id) or call.resume_from
        return cores_to_continue(call.route, snapshot)

    def _is_pinned(self, call: Call, ticket: Ticket) -> bool:
        """Return whether a call was started by a core that is still there and has its KV image."""
        snapshot = self._contexts.peek(call.syscall.id)
        return snapshot is not None and snapshot.kv is not None and len(ticket.route) == 1

    def _has_started(self, call: Call) -> bool:
        """Return whether a part of the answer exists, which only cores of its model continue."""
        has_tokens = call.syscall.num_tokens > 0 or call.resume_from is not None
        return has_tokens or self._contexts.peek(call.syscall.id) is not None

    def _is_absent(self, route: Route) -> bool:
        return not any(core in self._cores for core in route)
