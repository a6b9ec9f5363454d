"""Connect calls with the active sets of cores: what a call needs there, and what its end teaches.

`admission` decides about agents and numbers of tokens. Here a ticket becomes such a question, and
the usage of its answer corrects the books.
"""

from __future__ import annotations

from collections.abc import Iterable

from aios_core.core import Core, load_of
from aios_core.messages import Completion, Usage
from aios_core.scheduler.active_set import AdmissionPlan, Wanted
from aios_core.scheduler.admission import AdmissionController
from aios_core.scheduler.context_sizes import ContextSizes
from aios_core.scheduler.tool_gaps import ToolGaps
from aios_core.scheduler.waiting_calls import Ticket


class Places:
    """The places of calls in the active sets of cores.

    Args:
        admission: the active sets.
    """

    def __init__(self, admission: AdmissionController) -> None:
        self.admission = admission
        self._sizes = ContextSizes()
        self._gaps = ToolGaps()

    # --- before a run -------------------------------------------------------------------------

    def measure(self, ticket: Ticket, now: float) -> None:
        """Set the size of a new call's prompt from what is known of its agent."""
        pid = ticket.syscall.pid
        ticket.prompt_tokens = self._sizes.prompt_tokens(pid, ticket.model, ticket.prompt_tokens)
        self._gaps.came_back(pid, now)

    def plan(self, ticket: Ticket, core: Core, now: float) -> AdmissionPlan:
        """Decide whether a call may go to a core. Changes nothing."""
        if ticket.active_on is core:  # a suspended call has kept its place
            return AdmissionPlan(fits=True)
        return self.admission.plan(core, load_of(core), self._wanted(ticket, now), now)

    def is_overdue(self, ticket: Ticket, core: Core, now: float) -> bool:
        """Return whether a call has waited for room on a core for much longer than others did."""
        return now - ticket.queued_at > self.admission.overdue_s(core, load_of(core))

    def next_expiry(self, cores: Iterable[Core], now: float) -> float | None:
        """Return when the next idle agent gives its place to one that waits, in seconds."""
        if not self.admission.has_any:
            return None
        ends = [self.admission.next_expiry(core, load_of(core), now) for core in cores]
        return min((end for end in ends if end is not None), default=None)

    # --- a run --------------------------------------------------------------------------------

    def take(self, ticket: Ticket, core: Core, now: float) -> None:
        """Give a call that starts on a core its place there."""
        if ticket.active_on is core:
            return
        self.leave(ticket, now)
        load = load_of(core)
        if load.kv_capacity is None:
            return
        wanted = self._wanted(ticket, now)
        self.admission.apply(core, self.admission.plan(core, load, wanted, now))
        ticket.active_on, ticket.place = core, wanted
        ticket.warm_tokens = self.admission.admit(core, load, wanted)

    def leave(self, ticket: Ticket, now: float, usage: Usage | None = None) -> None:
        """Stop counting a call on the core where its context is, or was.

        Args:
            ticket: the call.
            now: the time.
            usage: of its answer; None: its size is estimated.
        """
        core, wanted = ticket.active_on, ticket.place
        if core is None or wanted is None:
            return
        context = ticket.prompt_tokens + ticket.syscall.num_tokens
        if usage is not None and usage.input_tokens > 0:
            context = usage.input_tokens + usage.output_tokens
        self.admission.release(core, wanted, context, now)
        ticket.active_on = ticket.place = None

    def answered(self, ticket: Ticket, completion: Completion, now: float, *, waits: bool) -> None:
        """Correct the books by the usage of an answer, and learn from it."""
        core, usage, pid = ticket.active_on, completion.usage, ticket.syscall.pid
        self._sizes.learn(pid, ticket.model, ticket.estimated_prompt, usage)
        tools = [call.name for call in completion.tool_calls]
        self._gaps.left(pid, tools, now)
        self.leave(ticket, now, usage)
        if core is None:
            return
        is_whole_run = ticket.syscall.num_attempts <= 1 and not ticket.syscall.num_preemptions
        self.admission.learn(
            core,
            pid,
            usage,
            warm_tokens=ticket.warm_tokens,
            first_token_s=ticket.first_token_s if is_whole_run else None,
            calls_wait=waits,
        )
        if (usual_s := self._gaps.usual_s(tools)) is not None:
            self.admission.leave_for_tool(core, pid, usual_s)

    def forget(self, pid: int) -> None:
        """Drop what is known of an agent that exited."""
        self._sizes.forget(pid)
        self._gaps.forget(pid)
        self.admission.forget(pid)

    def _wanted(self, ticket: Ticket, now: float) -> Wanted:
        return Wanted(
            ticket.syscall.pid,
            ticket.group.name,
            ticket.context_tokens,
            waited_s=now - ticket.queued_at,
        )
