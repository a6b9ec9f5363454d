"""One call in flight: the syscall, and everything that it holds until it is answered."""

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
    """The receiver of a call's outcome. Its methods return at once and never raise."""

    wants_deltas: bool

    def delta(self, delta: Delta) -> None:
        """Receive a delta of the answer, while it streams."""

    def resolve(self, completion: Completion) -> None:
        """Receive the answer. Called at most once, as the last method."""

    def reject(self, error: BaseException) -> None:
        """Receive the error of a failed call. Called at most once, as the last method."""


@dataclass(slots=True, eq=False)
class Call:
    """A syscall that needs a core, with everything that it holds."""

    syscall: Syscall
    process: AgentProcess
    answer: Answer
    route: Route
    prepared: Prepared | None = None
    allowance: Allowance | None = None  # set once it is prepared
    reservation: Reservation | None = None  # set at its first run
    waits_for: BudgetAccount | None = None  # the budget with too little unreserved
    answered_with: Completion | None = None  # a core may still work on it
    ticket: Ticket | None = None
    core: Core | None = None  # that works on it, also shortly after a cancellation
    timers: list[Timer] = field(default_factory=list)
    preparing: asyncio.Future[Any] | None = None  # the preparation, or its approval before that
    approval: object = None  # the approval that it waits for
    is_answered: bool = False
    tokens_before_run: int = 0  # generated before the current run
    has_streamed_in_run: bool = False  # its caller received a delta of the current run
    has_streamed_before: bool = False  # ... of an earlier run
    num_runs_failed: int = 0  # failed runs that count against `max_attempts`
    first_failed_at: float | None = None
    last_error: KernelError | None = None  # of the latest failed run
    resume_from: Snapshot | None = None  # of a call that was loaded from a file, or is retried

    @property
    def model(self) -> str:
        """The model that serves the call; a fallback if the requested one has no core up."""
        return served_model(self.syscall.request, self.route)

    @property
    def status(self) -> str:
        """The state of the call, for error messages."""
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

    @property
    def has_advanced_in_run(self) -> bool:
        """Whether the current run, or the one that just failed, generated anything."""
        return self.has_streamed_in_run or self.syscall.num_tokens > self.tokens_before_run

    @property
    def has_streamed(self) -> bool:
        """Whether the caller received any part of the answer."""
        return self.has_streamed_in_run or self.has_streamed_before

    def record_usage(self, usage: Usage) -> None:
        """Record the usage of the call, once no core works on it."""
        self.syscall.usage = usage
        self.process.accounting.usage += usage

    def record_outcome(self, outcome: SyscallState) -> None:
        """Add the answered call to its agent's accounting."""
        syscall, books = self.syscall, self.process.accounting
        books.running_s += syscall.running_s
        books.waiting_s += syscall.waited_s
        books.num_preemptions += syscall.num_preemptions
        books.num_failed += outcome is SyscallState.FAILED
        self.process.live_calls.discard(syscall.id)

    def on_run_started(self, core: Core, snapshot: Snapshot | None) -> None:
        """Note that a core starts the call, or resumes it from a snapshot."""
        self.core = core
        self.syscall.core = core.name
        self.syscall.num_attempts += snapshot is None
        self.tokens_before_run = self.syscall.num_tokens
        self.has_streamed_before = self.has_streamed
        self.has_streamed_in_run = False
        if self.tokens_before_run and self.allowance is not None:
            self.allowance.keep_received()
        self.resume_from = snapshot.without_kv() if snapshot else None

    def on_run_failed(
        self,
        error: KernelError,
        now: float,
        *,
        counts: bool,
        resume_from: Snapshot | None,
        has_advanced: bool,
    ) -> None:
        """Note that a run failed, and from where the next one starts.

        Only failures without progress between them add up.
        """
        self.core = None
        self.resume_from = resume_from
        if has_advanced:
            self.num_runs_failed, self.first_failed_at = 0, None
        self.num_runs_failed += counts
        if self.first_failed_at is None:
            self.first_failed_at = now
        self.last_error = error

    def restart(self, route: Route) -> None:
        """Drop the preparation for the former cores, since the cores of `route` will serve it."""
        if self.reservation is not None:
            self.reservation.settle(Cost())
        self.route = route
        self.ticket = self.prepared = self.reservation = self.resume_from = self.allowance = None

    @property
    def booked(self) -> Cost:
        """The cost of its earlier runs, which is counted as spent already."""
        return self.reservation.booked if self.reservation is not None else Cost()

    @property
    def has_partial_answer(self) -> bool:
        """Whether a part of the answer was generated, which its caller can be given."""
        return self.allowance is not None and bool(self.allowance.received)

    def release(self) -> None:
        """Cancel timers and preparation, and free an unused snapshot."""
        for timer in self.timers:
            timer.cancel()
        if self.preparing is not None and not self.preparing.done():
            self.preparing.cancel()
        if self.resume_from is not None:
            release(self.resume_from)
            self.resume_from = None


# --- third-party code: cores, answers, KV images --------------------------------------------------
# All of it must return at once and not raise. If it does raise, the error is logged and the kernel
# continues, since it is in the middle of work for several agents.


def deliver(receiver: Callable[[T], object], value: T) -> None:
    """Pass a delta or an outcome to a caller, which may no longer exist."""
    try:
        receiver(value)
    except RAISED as exc:
        pass_on(exc)
        log_raised(log, exc, "a caller could not be answered")


def preempt(core: Core, run_id: int) -> None:
    """Ask a core to suspend a run at its next token."""
    try:
        core.preempt(run_id)
    except RAISED as exc:
        pass_on(exc)
        log_raised(
            log, exc, "core %r could not preempt run %d; the run continues", core.name, run_id
        )


def cancel(core: Core, run_id: int) -> None:
    """Ask a core to stop a run."""
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
