"""Keep the books of the contexts on cores: predict, count, and correct by what was reported.

    submitted ──> plan ──> started ──> progressed ──> ended
                                          └── each correction makes later plans more exact

`context_sizes` predicts, `admission` decides, and this module feeds both with what happens to
calls. It reads no clock and starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from aios_core.core import Core, load_of
from aios_core.messages import Completion, Usage
from aios_core.scheduler.admission import FITS, AdmissionController, AdmissionPlan
from aios_core.scheduler.context_sizes import ContextSize, ContextSizes, PromptEstimate
from aios_core.scheduler.tool_gaps import ToolGaps
from aios_core.scheduler.waiting_calls import Ticket


@dataclass(slots=True)
class CoreStay:
    """The time of one call's context on a core, from its start until it ends or moves."""

    core: Core
    size: ContextSize
    num_prompt: int  # predicted tokens of the prompt
    num_reusable: int  # of those: tokens that the core should have in its cache
    started_at: float
    num_sharing: int  # prompts that the core had to compute at that time, this one included
    is_prefilling: bool = True
    first_token_at: float | None = None


class ContextBooks:
    """The contexts of calls and agents on all cores that report their memory."""

    def __init__(self, admission: AdmissionController) -> None:
        self.admission = admission
        self.sizes = ContextSizes()
        self.gaps = ToolGaps()
        self._stays: dict[int, CoreStay] = {}  # by the id of the syscall
        # Agents that the core's cache has served. Others may change the start of their prompts,
        # and show nothing by what is not found.
        self._cached: set[int] = set()

    # --- before a run -------------------------------------------------------------------------

    def submitted(self, ticket: Ticket, now: float) -> None:
        """Record a new call, and predict the size of its agent's context."""
        pid, model = ticket.syscall.pid, ticket.model
        self.gaps.returned(pid, now)
        ticket.context_tokens = self.sizes.prompt_tokens(pid, model, _prompt(ticket))

    def is_active(self, ticket: Ticket) -> bool:
        """Return whether the agent's context is on a core that can serve the call."""
        pid = ticket.syscall.pid
        return any(self.admission.is_active(core, pid) for core in ticket.route)

    def plan(
        self, ticket: Ticket, core: Core, now: float, *, is_overdue: bool = False
    ) -> AdmissionPlan:
        """Decide whether a call may go to a core. Changes nothing."""
        stay = self._stays.get(ticket.syscall.id)
        if stay is not None and stay.core is core:  # a suspended call has kept its place
            return FITS
        load = load_of(core)
        if load.kv_capacity is None:  # the core does not report its memory
            return FITS
        size = self._size(ticket, load.kv_capacity)
        return self.admission.plan(core, load, ticket.syscall.pid, size, now, is_overdue=is_overdue)

    def _size(self, ticket: Ticket, kv_capacity: int) -> ContextSize:
        return self.sizes.context(
            ticket.syscall.pid,
            ticket.model,
            _prompt(ticket),
            max_tokens=ticket.max_tokens,
            expect_answer=ticket.expect_answer,
            kv_capacity=kv_capacity,
        )

    # --- during a run -------------------------------------------------------------------------

    def started(self, ticket: Ticket, core: Core, plan: AdmissionPlan, now: float) -> None:
        """Count a call that starts on a core; one that continues there is counted already."""
        if (stay := self._stays.get(ticket.syscall.id)) is not None:
            if stay.core is core:
                return
            self.ended(ticket, now)
        load = load_of(core)
        if load.kv_capacity is None:
            return
        pid, model = ticket.syscall.pid, ticket.model
        size = self._size(ticket, load.kv_capacity)
        self.admission.apply(core, plan)
        progress = self.sizes.num_answers(pid)
        is_warm = self.admission.admit(core, pid, size, progress)
        active = self.admission.of(core)
        active.share.look(load, now)
        active.num_prefilling += 1
        self._stays[ticket.syscall.id] = CoreStay(
            core,
            size,
            self.sizes.prompt_tokens(pid, model, _prompt(ticket)),
            self.sizes.reusable_tokens(pid, model, _prompt(ticket)) if is_warm else 0,
            now,
            active.num_prefilling,
        )

    def progressed(self, ticket: Ticket, num_tokens: int, now: float) -> None:
        """Count generated tokens, as far as they are more than was expected."""
        if (stay := self._stays.get(ticket.syscall.id)) is None:
            return
        if stay.is_prefilling:
            stay.first_token_at = now
            self._end_prefill(stay)
        total = stay.num_prompt + ticket.syscall.num_tokens
        if total > stay.size.num_tokens:
            more = total - stay.size.num_tokens + num_tokens
            stay.size = ContextSize(stay.size.num_tokens + more, stay.size.prefix)
            self.admission.of(stay.core).grow(ticket.syscall.pid, more)

    # --- after a run --------------------------------------------------------------------------

    def ended(self, ticket: Ticket, now: float, answer: Completion | None = None) -> None:
        """Stop counting a call where its context is; correct the books by its answer's usage."""
        tools = [call.name for call in answer.tool_calls] if answer else []
        before = self.sizes.known(ticket.syscall.pid)
        if answer is not None:
            self._learn(ticket, answer.usage, tools, now)
        if (stay := self._stays.pop(ticket.syscall.id, None)) is None:
            return
        if stay.is_prefilling:
            self._end_prefill(stay)
        num_tokens = stay.num_prompt + ticket.syscall.num_tokens
        if answer is not None:
            usage = answer.usage
            self._measure(ticket, stay, usage)
            num_tokens = usage.input_tokens + usage.output_tokens
            if before is not None:
                self.admission.of(stay.core).learn_growth(num_tokens - before)
        self._release(ticket, stay, num_tokens, tools, now)

    def forget_core(self, core: Core) -> None:
        """Drop the contexts on a core that is removed, or went down."""
        for call_id in [i for i, stay in self._stays.items() if stay.core is core]:
            del self._stays[call_id]
        self.admission.forget_core(core)

    def exited(self, pid: int) -> None:
        """Drop the context of an agent that exited."""
        self.admission.forget(pid)
        self.sizes.forget(pid)
        self.gaps.forget(pid)
        self._cached.discard(pid)

    def _learn(self, ticket: Ticket, usage: Usage, tools: list[str], now: float) -> None:
        self.sizes.learn(ticket.syscall.pid, ticket.model, _prompt(ticket), usage)
        self.gaps.left(ticket.syscall.pid, tools, now)

    def _release(
        self, ticket: Ticket, stay: CoreStay, num_tokens: int, tools: list[str], now: float
    ) -> None:
        load = load_of(stay.core)
        usual_s = self.gaps.usual_s(tools) if tools else None
        self.admission.release(
            stay.core,
            load,
            ticket.syscall.pid,
            stay.size,
            num_tokens=num_tokens,
            now=now,
            leaves=usual_s is not None and usual_s > self.admission.time_to_live(stay.core, load),
        )

    def _end_prefill(self, stay: CoreStay) -> None:
        stay.is_prefilling = False
        self.admission.of(stay.core).num_prefilling -= 1

    def _measure(self, ticket: Ticket, stay: CoreStay, usage: Usage) -> None:
        """Learn from a usage how fast the core computes prompts, and what its cache holds."""
        if usage.is_estimated:
            return
        active = self.admission.of(stay.core)
        if not stay.num_reusable:  # a cold prompt, as one would be that is computed again
            if stay.first_token_at is not None:
                num_computed = usage.input_tokens - usage.cached_tokens
                seconds = stay.first_token_at - stay.started_at
                active.rate.learn(num_computed, seconds, stay.num_sharing)
            return
        if ticket.syscall.pid in self._cached:
            self._judge_cache(ticket, stay, usage)
        elif usage.cached_tokens:
            self._cached.add(ticket.syscall.pid)

    def _judge_cache(self, ticket: Ticket, stay: CoreStay, usage: Usage) -> None:
        capacity = load_of(stay.core).kv_capacity
        if capacity is not None:
            self.admission.of(stay.core).share.cached(
                min(stay.num_reusable, usage.input_tokens),
                usage.cached_tokens,
                capacity,
                is_short=ticket.waited_for_memory,
            )


def _prompt(ticket: Ticket) -> PromptEstimate:
    if ticket.prompt is None:
        request = ticket.syscall.request
        ticket.prompt = PromptEstimate(ticket.prompt_tokens, request, ticket.ratio)
    return ticket.prompt
