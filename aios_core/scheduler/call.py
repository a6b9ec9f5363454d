"""One call on its way: the syscall, with everything that it holds until it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aios_core.budget import BudgetAccount, Cost, Price, Reservation
from aios_core.clock import Timer
from aios_core.core import Core, Prepared
from aios_core.errors import KernelError
from aios_core.manager import waiting_for
from aios_core.messages import Completion, Delta, Usage
from aios_core.process import AgentProcess
from aios_core.scheduler.allowance import Allowance
from aios_core.scheduler.waiting_calls import Route, Ticket, served_model
from aios_core.snapshot import Snapshot
from aios_core.syscalls import Syscall, SyscallState
from aios_core.untrusted.third_party import RAISED, log_raised, pass_on

T = TypeVar("T")
log = logging.getLogger(__name__)

PriceList = Callable[[str], Price]  # by model name


class Answer(Protocol):
    """Where the outcome of a call goes. The methods return at once and never raise."""

    wants_deltas: bool

    def delta(self, delta: Delta) -> None:
        """More of the answer, while it streams."""

    def resolve(self, completion: Completion) -> None:
        """The answer. Called at most once, and then nothing else."""

    def reject(self, error: BaseException) -> None:
        """There will be no answer. Called at most once, and then nothing else."""


@dataclass(slots=True, eq=False)
class Call:
    """A syscall with everything that it holds."""

    syscall: Syscall
    process: AgentProcess
    answer: Answer
    route: Route
    prepared: Prepared | None = None
    allowance: Allowance | None = None  # since it was prepared
    reservation: Reservation | None = None  # since its first run
    waits_for: BudgetAccount | None = None  # in which too little is unreserved
    answered_with: Completion | None = None  # a core may still have to let go of it
    ticket: Ticket | None = None
    core: Core | None = None  # that works on it, also for a moment after a cancellation
    timers: list[Timer] = field(default_factory=list)
    preparing: asyncio.Future[Any] | None = None  # or waiting for an approval
    approval: object = None  # what the gatekeeper wants to have awaited first
    is_answered: bool = False
    tokens_before_run: int = 0  # generated before the present run
    has_streamed_in_run: bool = False  # its caller has seen something of the present run
    num_runs_failed: int = 0  # those that count against `max_attempts`
    first_failed_at: float | None = None
    last_error: KernelError | None = None  # of the latest run that failed
    resume_from: Snapshot | None = None  # of a call that was loaded from a file, or tried again

    @property
    def model(self) -> str:
        """The model that serves it: another than it asked for if that has no core up."""
        return served_model(self.syscall.request, self.route)

    @property
    def doing(self) -> str:
        """For people: what the call is busy with."""
        if self.approval is not None:
            return waiting_for(self.approval)
        if self.ticket is None:
            return "being prepared"
        if self.waits_for is not None:
            return f"waiting for calls that have reserved what is left of {self.waits_for.owner}"
        where = f" on core {self.core.name!r}" if self.core else ""
        after = f", after: {self.last_error}" if self.last_error else ""
        if self.ticket.is_held:
            reasons = " and ".join(sorted(self.ticket.holds))
            return f"{self.syscall.state} and held back because {reasons}{after}"
        return f"{self.syscall.state}{where}, {self.syscall.num_tokens} tokens so far{after}"

    def record_usage(self, usage: Usage) -> None:
        """Record the usage of the call, when no core works on it any longer."""
        self.syscall.usage = usage
        self.process.accounting.usage += usage

    def book(self, outcome: SyscallState) -> None:
        """Account for the call, which is answered now."""
        syscall, books = self.syscall, self.process.accounting
        books.running_s += syscall.running_s
        books.waiting_s += syscall.waited_s
        books.num_preemptions += syscall.num_preemptions
        books.num_failed += outcome is SyscallState.FAILED
        self.process.live_calls.discard(syscall.id)

    def run_begins(self, core: Core, snapshot: Snapshot | None) -> None:
        """A core takes the call up, at its start or from a snapshot."""
        self.core = core
        self.syscall.core = core.name
        self.syscall.num_attempts += snapshot is None
        self.tokens_before_run = self.syscall.num_tokens
        self.has_streamed_in_run = False
        self.resume_from = snapshot.without_kv() if snapshot else None

    def run_failed(self, error: KernelError, now: float, *, counts: bool) -> None:
        """The run had no effect; the next one begins where it began."""
        self.core = None
        self.num_runs_failed += counts
        if self.first_failed_at is None:
            self.first_failed_at = now
        self.last_error = error

    def start_over(self, route: Route) -> None:
        """Forget the preparation for cores that are gone; others will serve the call."""
        if self.reservation is not None:
            self.reservation.settle(Cost())
        self.route = route
        self.ticket = self.prepared = self.reservation = self.resume_from = self.allowance = None

    @property
    def booked(self) -> Cost:
        """What is counted as spent already, while it waits for its next run."""
        return self.reservation.booked if self.reservation is not None else Cost()

    @property
    def has_partial_answer(self) -> bool:
        """Whether something was generated that its caller can be given."""
        return self.allowance is not None and bool(self.allowance.heard)

    def release(self) -> None:
        """Free timers, preparation and an unused snapshot."""
        for timer in self.timers:
            timer.cancel()
        if self.preparing is not None and not self.preparing.done():
            self.preparing.cancel()
        if self.resume_from is not None:
            release(self.resume_from)
            self.resume_from = None


# --- third-party code: cores, answers, KV images --------------------------------------------------
# All of it must return at once and never raise. What raises all the same is logged: the kernel is
# in the middle of work for several agents when it calls it.


def deliver(hand_over: Callable[[T], object], value: T) -> None:
    """Hand a delta or an outcome to a caller, which may not exist any longer."""
    try:
        hand_over(value)
    except RAISED as exc:
        pass_on(exc)
        log_raised(log, exc, "a caller could not be answered")


def preempt(core: Core, run_id: int) -> None:
    """Ask a core to stop a run at its next token."""
    try:
        core.preempt(run_id)
    except RAISED as exc:
        pass_on(exc)
        log_raised(
            log, exc, "core %r could not preempt run %d; the run continues", core.name, run_id
        )


def cancel(core: Core, run_id: int) -> None:
    """Ask a core to drop a run."""
    try:
        core.cancel(run_id)
    except RAISED as exc:
        pass_on(exc)
        log_raised(
            log, exc, "core %r could not cancel run %d; the run keeps its slot", core.name, run_id
        )


def release(snapshot: Snapshot) -> None:
    """Free the KV image of a snapshot, if it has one."""
    try:
        if snapshot.kv is not None:
            snapshot.kv.release()
    except RAISED as exc:
        pass_on(exc)
        log_raised(log, exc, "a KV image could not be freed")
