"""Continue answers after their run has failed: from where, on which cores, and at what loss.

The tokens that a failed run reported are kept if the core handed over a snapshot of them.
Otherwise they are lost, and the call starts again where the run had started, but only if its
caller has received nothing of the lost part: a second answer could contradict it. Lost tokens are
charged, since a backend generated them. Decisions here are pure; `write_off` acts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aios_core.budget import Cost
from aios_core.core import Core, Failed, can_continue
from aios_core.errors import AnswerLost, CoreError, CoreUnavailable, KernelError, SnapshotError
from aios_core.messages import Usage
from aios_core.scheduler.call import Call
from aios_core.scheduler.spending import allowance_of
from aios_core.scheduler.waiting_calls import Route
from aios_core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Start:
    """A position from which the next run of a failed call may start."""

    snapshot: Snapshot | None  # None: from the prompt
    has_advanced: bool = False  # the failed run generated tokens that are kept
    has_losses: bool = False  # tokens that were generated are lost


def possible_starts(call: Call, report: Failed) -> Iterator[Start]:
    """Yield the positions from which a failed call may continue, the best first."""
    has_advanced = call.has_advanced_in_run
    if has_advanced and report.snapshot is not None:
        yield Start(report.snapshot, has_advanced=True)
    is_refused = isinstance(report.error, SnapshotError)  # the core cannot start there
    if not (call.has_streamed_in_run or is_refused):
        yield Start(call.resume_from, has_losses=has_advanced)
    if call.resume_from is not None and not call.has_streamed:
        yield Start(None, has_losses=True)


def cores_to_continue(route: Route, snapshot: Snapshot | None) -> Route:
    """Return the cores of a route that can start from a snapshot; all of them without one."""
    if snapshot is None:
        return route
    return tuple(core for core in route if can_continue(core, snapshot))


def write_off(call: Call, used: Usage, start: Start) -> Cost:
    """Charge what a failed run used, and forget the tokens that are lost.

    `used` is the usage of the whole call so far. Returns the part of the cost beyond all limits.
    """
    allowance, is_whole = allowance_of(call), start.snapshot is None
    allowance.rewind(to_prompt=is_whole)
    call.syscall.num_tokens = 0 if is_whole else call.tokens_before_run
    lost = replace(used, output_tokens=max(0, used.output_tokens - allowance.num_tokens))
    if not is_whole:  # the answer's own usage has the prompt
        lost = Usage(0, lost.output_tokens, is_estimated=used.is_estimated)
    if call.reservation is not None:
        booked = allowance.cost_of(0 if is_whole else allowance.prompt_tokens, allowance.num_tokens)
        call.reservation.park(replace(booked, calls=1))
    cost = allowance.cost_of(lost.input_tokens, lost.output_tokens)
    accounting = call.process.accounting
    accounting.usage += lost
    accounting.money += cost.money
    return call.process.budget.reserve(Cost()).settle(cost)


def loss_of(call: Call, core: Core, error: KernelError) -> KernelError:
    """Return the error of a call that cannot continue, which names the lost part if it was seen."""
    is_broken = isinstance(error, CoreUnavailable) or (
        isinstance(error, CoreError) and error.is_retryable
    )
    if not (is_broken and call.has_streamed) or core.capabilities.external:
        return error
    lost = AnswerLost(core.name, call.syscall.num_tokens, str(error))
    lost.__cause__ = error
    return lost
