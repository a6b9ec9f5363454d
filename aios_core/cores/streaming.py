"""The base class for cores that stream from async generators.

A subclass implements `stream`, which generates one answer. `StreamingCore` adds the rest
of the contract in `aios_core.core`: one asyncio task for each run on the kernel's loop,
progress, exactly one final report, cancellation, preemption, slots, and a `close` that
leaves no task behind.

Promises: only the done-callback of a run's task reports its end. So there is exactly one
final report, no report follows it, and the generator has released all its resources
before. A run that cannot be resumed from its position (`can_resume`) ignores preemption
and runs to its end. A run that its backend breaks off reports where it can be resumed.

Everything here runs on the kernel's loop; there are no locks.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from aios_core.core import (
    Capabilities,
    CoreDown,
    CoreLoad,
    Failed,
    Finished,
    Preempted,
    Prepared,
    Progress,
    Report,
    ReportSink,
    Run,
    Stopped,
)
from aios_core.cores.deltas import DeltaAssembler
from aios_core.errors import CoreError, KernelBug, KernelError, SnapshotError
from aios_core.messages import Completion, Delta, Usage
from aios_core.redaction import scrub
from aios_core.shielding import finish_shielded
from aios_core.snapshot import KVImage, Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import answer_texts, at_least

# What `stream` yields: deltas (each counts as the fewest tokens that its text can have, at
# least one), or progress with an explicit count, and the whole answer last.
Item = Delta | Progress | Completion


class _EndRequest(Enum):
    """The way in which a run was asked to end."""

    STOP = auto()
    PREEMPT = auto()
    FAIL = auto()  # the core goes down


@dataclass(slots=True, eq=False)
class LiveRun:
    """A run and what it has streamed. All counts include those of its snapshot."""

    run: Run
    answer: DeltaAssembler
    num_tokens: int
    output_ids: list[int] = field(default_factory=list)  # if the backend reports token ids
    prompt_ids: tuple[int, ...] = ()
    has_streamed: bool = False  # since the run started or resumed: the backend sent a delta
    was_sent: bool = False  # since then: the prompt was sent, and will be charged
    memo: Any = None  # the subclass's own state
    end_request: _EndRequest | None = None
    task: asyncio.Task[Completion] | None = None

    def __repr__(self) -> str:
        return f"<LiveRun {self.run.id}: {self.num_tokens} tokens, end_request {self.end_request}>"

    @classmethod
    def of(cls, run: Run) -> LiveRun:
        """Make the state of a run that starts, or that resumes from its snapshot."""
        was = run.snapshot or Snapshot("")
        ids = list(was.output_ids)
        return cls(run, DeltaAssembler(was.text), len(ids), ids, was.prompt_ids)

    def usage(self) -> Usage:
        """Return an estimate of the usage so far; zero if the request was never sent."""
        if not (self.num_tokens or self.was_sent):
            return Usage()
        return Usage(self.run.prepared.num_tokens, self.num_tokens, is_estimated=True)


class StreamingCore(ABC):
    """A core with answers from async generators.

    Subclasses implement `stream` and `prepare`, and may override `connect`, `disconnect`,
    `can_resume` and `snapshot`. With `num_ahead`, the core accepts so many runs beyond its slots,
    for backends with a queue of their own.

    Invariants: `_live` holds exactly the runs without a final report; the task of each is
    not done, or its done-callback is scheduled.
    """

    def __init__(self, name: str, models: Sequence[str], *, slots: int, num_ahead: int = 0) -> None:
        if slots < 1:
            raise ValueError(f"a core needs at least one slot, got {slots}")
        self._name = name
        self._models = tuple(models)
        self._slots = slots
        self._num_ahead = num_ahead
        self._live: dict[int, LiveRun] = {}
        self._sink: ReportSink | None = None
        self._is_up = False
        self._going_down: CoreError | None = None
        self._load = CoreLoad(slots, 0, num_ahead, is_up=False)  # as returned last

    def __repr__(self) -> str:
        state = "up" if self._is_up else "down"
        return f"<{type(self).__name__} {self._name!r}: {state}, {len(self._live)}/{self._slots}>"

    # --- for subclasses to implement ----------------------------------------------------------

    @abstractmethod
    def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Generate one answer, from its start or from `live.run.snapshot`.

        Yields deltas and, last, the whole answer (including the snapshot's part). Cancelling
        the task that iterates must stop the work at the backend. A `KernelError` fails the
        run as it is; any other exception becomes a `CoreError`.
        """

    @abstractmethod
    def prepare(self, request: LLMGenerate) -> Prepared | Awaitable[Prepared]:
        """Count the tokens of a request's prompt and answer, and check the request."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """The features that this core supports."""

    async def connect(self) -> None:  # noqa: B027 - most backends have nothing to do
        """Connect to the backend. Raises `BackendError`."""

    async def disconnect(self) -> None:  # noqa: B027
        """Disconnect from the backend; called when there are no runs. Idempotent."""

    def can_resume(self, live: LiveRun) -> bool:
        """Return whether a run can resume from its position; always so if it streamed nothing."""
        return not live.answer.has_tool_calls

    def can_continue(self, snapshot: Snapshot) -> bool:
        """Return whether this core can continue an answer that another core has started."""
        return self.capabilities.preemptible and snapshot.model in self._models

    def snapshot(self, live: LiveRun) -> Snapshot:
        """Take the snapshot of a preempted run."""
        return Snapshot(
            model=self.model_of(live.run.request),
            prompt_ids=live.prompt_ids,
            output_ids=tuple(live.output_ids),
            text=live.answer.text,
        )

    # --- the contract of a core ---------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def models(self) -> Sequence[str]:
        return self._models

    async def start(self, sink: ReportSink) -> None:
        """Connect to the backend. Raises `BackendError`."""
        await self.disconnect()  # of an earlier start that failed later
        self._sink = sink
        self._going_down = None
        try:
            await self.connect()
        except BaseException:
            await finish_shielded(self.disconnect())
            raise
        self._is_up = True

    def run(self, run: Run) -> None:
        """Start a run, or resume it from its snapshot."""
        if not self._is_up:
            self._refuse(run)
            return
        live = LiveRun.of(run)
        self._live[run.id] = live
        live.task = asyncio.get_running_loop().create_task(
            self._consume(live), name=f"{self._name}-run-{run.id}"
        )
        live.task.add_done_callback(lambda task: self._end(live, task))

    def preempt(self, run_id: int) -> None:
        """Suspend a run, if it can resume from its position."""
        live = self._live.get(run_id)
        if live is None or live.end_request is not None or not self.capabilities.preemptible:
            return
        if not live.has_streamed or self.can_resume(live):
            self._drop(live, _EndRequest.PREEMPT)

    def cancel(self, run_id: int) -> None:
        """Stop a run."""
        if live := self._live.get(run_id):
            self._drop(live, _EndRequest.STOP)

    def load(self) -> CoreLoad:
        """Return the number of running calls, and whether the core is up."""
        known, num_running = self._load, len(self._live)
        if known.num_running != num_running or known.is_up is not self._is_up:
            known = self._load = CoreLoad(
                self._slots, num_running, self._num_ahead, is_up=self._is_up
            )
        return known

    def open_image(self, path: Path) -> KVImage:
        """Raise `SnapshotError`: backends that stream text have no KV images."""
        raise SnapshotError(f"core {self.name!r} takes no KV images, such as {path.name}")

    async def close(self) -> None:
        """Stop all runs and disconnect from the backend. Idempotent."""
        self._is_up = False
        for live in self._live.values():
            self._drop(live, _EndRequest.STOP)
        while tasks := [live.task for live in self._live.values() if live.task]:
            await asyncio.wait(tasks)
        await self.disconnect()

    def report_down(self, reason: str, cause: BaseException | None = None) -> None:
        """Fail all runs, and report `CoreDown` once the last of them has ended."""
        if not self._is_up:
            return
        self._is_up = False
        self._going_down = self.error(reason, cause, is_retryable=True)
        for live in self._live.values():
            self._drop(live, _EndRequest.FAIL)
        self._report_down_if_empty()

    def error(
        self, message: str, cause: BaseException | None = None, *, is_retryable: bool = False
    ) -> CoreError:
        """Build an error of this core."""
        error = CoreError(self._name, message, is_retryable=is_retryable)
        error.__cause__ = None if cause is None else scrub(cause)
        return error

    def model_of(self, request: LLMGenerate) -> str:
        """Return the model that answers: the requested one, or this core's own as a fallback."""
        return answering_model(request, self.models)

    def report(self, *reports: Report) -> None:
        """Send reports to the dispatcher."""
        if self._sink is None:
            raise KernelBug(f"core {self._name!r} was never started")
        self._sink(reports)

    # --- internals ----------------------------------------------------------------------------

    def _refuse(self, run: Run) -> None:
        self.report(Failed(run.id, self.error("is not up", is_retryable=True)))

    def _drop(self, live: LiveRun, end_request: _EndRequest) -> None:
        was_dropped = live.end_request is not None
        if live.end_request is not _EndRequest.FAIL:  # a failure of the core overrides all
            live.end_request = end_request
        if live.task and not was_dropped:  # a second cancel would interrupt its clean-up
            live.task.cancel()

    async def _consume(self, live: LiveRun) -> Completion:
        async with aclosing(self.stream(live)) as items:
            async for item in items:
                if isinstance(item, Completion):
                    return item
                self._advance(live, item)
        raise self.error("the answer broke off", is_retryable=True)

    def _advance(self, live: LiveRun, item: Delta | Progress) -> None:
        if isinstance(item, Delta):
            num_tokens = max(1, sum(map(at_least, answer_texts(item))))
            item = Progress(live.run.id, num_tokens, item)
        live.has_streamed = live.has_streamed or bool(item.delta)
        live.num_tokens += item.num_tokens
        if not item.delta.choice:  # the subclass keeps the other choices
            live.answer.add(item.delta)
        self.report(item)

    def _end(self, live: LiveRun, task: asyncio.Task[Completion]) -> None:
        del self._live[live.run.id]
        self.report(self._outcome(live, task))
        self._report_down_if_empty()

    def _outcome(self, live: LiveRun, task: asyncio.Task[Completion]) -> Report:
        """Choose the final report: an answer counts first, then the end_request, then the error."""
        error = None if task.cancelled() else task.exception()
        if not task.cancelled() and error is None:
            return Finished(live.run.id, task.result())
        match live.end_request:
            case _EndRequest.PREEMPT:
                return Preempted(live.run.id, self.snapshot(live))
            case _EndRequest.FAIL if self._going_down is not None:
                return self._failure_report(live, self._going_down)
            case None if error is not None:
                return self._failure_report(live, self._as_kernel_error(live, error))
            case _:  # cancelled by the caller, or by the end of the loop
                return Stopped(live.run.id, live.usage())

    def _as_kernel_error(self, live: LiveRun, error: BaseException) -> KernelError:
        scrub(error)
        if isinstance(error, KernelError):
            return error
        what = f"{type(error).__name__}: {error}"
        return self.error(what, error, is_retryable=not live.has_streamed)

    def _failure_report(self, live: LiveRun, error: KernelError) -> Failed:
        """Report a failure, with the position from which the run can be resumed, if it can."""
        is_broken_off = live.has_streamed and getattr(error, "is_retryable", False)
        is_resumable = is_broken_off and self.capabilities.preemptible and self.can_resume(live)
        snapshot = self.snapshot(live) if is_resumable else None
        return Failed(live.run.id, error, live.usage(), snapshot)

    def _report_down_if_empty(self) -> None:
        if self._going_down is not None and not self._live:
            error, self._going_down = self._going_down, None
            self.report(CoreDown(error))


def answering_model(request: LLMGenerate, models: Sequence[str]) -> str:
    """Return the model of `models` that answers a request: the requested one, or the first."""
    return request.model if request.model is not None and request.model in models else models[0]
