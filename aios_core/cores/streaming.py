"""An async generator becomes a core.

A subclass says in `stream` how one answer comes about; `StreamingCore` makes of
it the contract of `aios_core.core`: one asyncio task per run on the kernel's
loop, progress, exactly one end, cancellation, preemption, slots, and a `close`
that leaves no task behind.

Promises: the end of a run is reported by its task's done-callback and nowhere
else, so there is exactly one, nothing follows it, and when it is reported the
generator has let go of all it held. A run that cannot be resumed from where it
is (`can_resume`) ignores a preemption and goes on to its end.

Everything here happens on the kernel's loop; there are no locks.
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
from aios_core.cores.deltas import Assembler
from aios_core.errors import CoreError, KernelBug, KernelError, SnapshotError
from aios_core.messages import Completion, Delta, Usage
from aios_core.redaction import scrub
from aios_core.snapshot import KVImage, Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import answer_texts, at_least

# What `stream` yields: a delta (counts as one token, or as many as its text has at
# least), progress that counts its tokens itself, and at last the answer.
Item = Delta | Progress | Completion


class _Wish(Enum):
    """How a run is to end, if not on its own."""

    STOP = auto()
    PREEMPT = auto()
    FAIL = auto()  # the core goes down


@dataclass(slots=True, eq=False)
class LiveRun:
    """A run and what it has streamed. All counts include what its snapshot brought along."""

    run: Run
    answer: Assembler
    num_tokens: int
    output_ids: list[int] = field(default_factory=list)  # where a backend tells them
    prompt_ids: tuple[int, ...] = ()
    has_streamed: bool = False  # in this stretch: something came from the backend
    was_sent: bool = False  # in this stretch: the prompt has left us, and will be charged
    memo: Any = None  # whatever the subclass wants to find again
    wish: _Wish | None = None
    task: asyncio.Task[Completion] | None = None

    def __repr__(self) -> str:
        return f"<LiveRun {self.run.id}: {self.num_tokens} tokens, wish {self.wish}>"

    @classmethod
    def of(cls, run: Run) -> LiveRun:
        """A run at its start, or where its snapshot left it."""
        was = run.snapshot or Snapshot("")
        ids = list(was.output_ids)
        return cls(run, Assembler(was.text), len(ids), ids, was.prompt_ids)

    def usage(self) -> Usage:
        """What the call took so far; nothing, if it never reached the backend."""
        if not (self.num_tokens or self.was_sent):
            return Usage()
        return Usage(self.run.prepared.num_tokens, self.num_tokens, is_estimated=True)


class StreamingCore(ABC):
    """A core whose answers come from async generators.

    Subclasses implement `stream` and `prepare`, and, where they have something
    to do, `open`, `shut`, `can_resume` and `snapshot`.

    Invariants: `_live` holds exactly the runs without a final report; each has
    a task that is not done, or whose done-callback is scheduled.
    """

    def __init__(self, name: str, models: Sequence[str], *, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a core needs at least one slot, got {slots}")
        self._name = name
        self._models = tuple(models)
        self._slots = slots
        self._live: dict[int, LiveRun] = {}
        self._sink: ReportSink | None = None
        self._is_up = False
        self._going_down: CoreError | None = None
        self._load = CoreLoad(slots, 0, is_up=False)  # as it was asked for last

    def __repr__(self) -> str:
        state = "up" if self._is_up else "down"
        return f"<{type(self).__name__} {self._name!r}: {state}, {len(self._live)}/{self._slots}>"

    # --- what a subclass says -----------------------------------------------------------------

    @abstractmethod
    def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Generate one answer, from its start or from `live.run.snapshot`.

        Yields deltas and, last, the whole answer (with what the snapshot brought
        along). Cancelling the task that iterates stops the work behind it.
        A `KernelError` fails the run as it is; anything else becomes a `CoreError`.
        """

    @abstractmethod
    def prepare(self, request: LLMGenerate) -> Prepared | Awaitable[Prepared]:
        """Measure a request."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this core can do."""

    async def open(self) -> None:  # noqa: B027 - most backends have nothing to do
        """Reach the backend. Raises `BackendError`."""

    async def shut(self) -> None:  # noqa: B027
        """Let go of the backend; no run is live. Idempotent."""

    def can_resume(self, live: LiveRun) -> bool:
        """Whether a run could go on from where it is. A run that streamed nothing always can."""
        return not live.answer.has_tool_calls

    def snapshot(self, live: LiveRun) -> Snapshot:
        """What is kept of a preempted run."""
        return Snapshot(
            model=self.model_of(live.run.request),
            prompt_ids=live.prompt_ids,
            output_ids=tuple(live.output_ids),
            text=live.answer.text,
        )

    # --- the contract -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def models(self) -> Sequence[str]:
        return self._models

    async def start(self, sink: ReportSink) -> None:
        """Reach the backend. Raises `BackendError`."""
        await self.shut()  # of an earlier start, that went down
        self._sink = sink
        self._going_down = None
        try:
            await self.open()
        except BaseException:
            await self.shut()
            raise
        self._is_up = True

    def run(self, run: Run) -> None:
        """Begin a run, or go on from its snapshot."""
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
        """Stop a run where it is, if it can go on from there."""
        live = self._live.get(run_id)
        if live is None or live.wish is not None or not self.capabilities.preemptible:
            return
        if not live.has_streamed or self.can_resume(live):
            self._drop(live, _Wish.PREEMPT)

    def cancel(self, run_id: int) -> None:
        """Drop a run."""
        if live := self._live.get(run_id):
            self._drop(live, _Wish.STOP)

    def load(self) -> CoreLoad:
        """How full the core is now."""
        known, num_running = self._load, len(self._live)
        if known.num_running != num_running or known.is_up is not self._is_up:
            known = self._load = CoreLoad(self._slots, num_running, is_up=self._is_up)
        return known

    def open_image(self, path: Path) -> KVImage:
        """Backends that stream text keep no KV images."""
        raise SnapshotError(f"core {self.name!r} takes no KV images, such as {path.name}")

    async def close(self) -> None:
        """Stop all runs and let go of the backend. Idempotent."""
        self._is_up = False
        for live in self._live.values():
            self._drop(live, _Wish.STOP)
        while tasks := [live.task for live in self._live.values() if live.task]:
            await asyncio.wait(tasks)
        await self.shut()

    def go_down(self, reason: str, cause: BaseException | None = None) -> None:
        """Fail every run and report `CoreDown` once the last of them is over."""
        if not self._is_up:
            return
        self._is_up = False
        self._going_down = self.error(reason, cause, is_retryable=True)
        for live in self._live.values():
            self._drop(live, _Wish.FAIL)
        self._report_down_if_empty()

    def error(
        self, message: str, cause: BaseException | None = None, *, is_retryable: bool = False
    ) -> CoreError:
        """An error of this core."""
        error = CoreError(self._name, message, is_retryable=is_retryable)
        error.__cause__ = None if cause is None else scrub(cause)
        return error

    def model_of(self, request: LLMGenerate) -> str:
        """The model that answers: the one asked for, or, where this core stands in, its own."""
        return answering_model(request, self.models)

    def report(self, *reports: Report) -> None:
        """Tell the dispatcher."""
        if self._sink is None:
            raise KernelBug(f"core {self._name!r} was never started")
        self._sink(reports)

    # --- behind it ----------------------------------------------------------------------------

    def _refuse(self, run: Run) -> None:
        self.report(Failed(run.id, self.error("is not up", is_retryable=True)))

    def _drop(self, live: LiveRun, wish: _Wish) -> None:
        was_dropped = live.wish is not None
        if live.wish is not _Wish.FAIL:  # the last word
            live.wish = wish
        if live.task and not was_dropped:  # a second cancel would break into its clean-up
            live.task.cancel()

    async def _consume(self, live: LiveRun) -> Completion:
        async with aclosing(self.stream(live)) as items:
            async for item in items:
                if isinstance(item, Completion):
                    return item
                self._advance(live, item)
        raise self.error("the answer broke off", is_retryable=not live.has_streamed)

    def _advance(self, live: LiveRun, item: Delta | Progress) -> None:
        if isinstance(item, Delta):
            num_tokens = max(1, sum(map(at_least, answer_texts(item))))
            item = Progress(live.run.id, num_tokens, item)
        live.has_streamed = live.has_streamed or bool(item.delta)
        live.num_tokens += item.num_tokens
        if not item.delta.choice:  # further answers to one prompt are the subclass's to keep
            live.answer.add(item.delta)
        self.report(item)

    def _end(self, live: LiveRun, task: asyncio.Task[Completion]) -> None:
        del self._live[live.run.id]
        self.report(self._outcome(live, task))
        self._report_down_if_empty()

    def _outcome(self, live: LiveRun, task: asyncio.Task[Completion]) -> Report:
        """An answer that came all the same counts; then the wish; then the error."""
        error = None if task.cancelled() else task.exception()
        if not task.cancelled() and error is None:
            return Finished(live.run.id, task.result())
        match live.wish:
            case _Wish.PREEMPT:
                return Preempted(live.run.id, self.snapshot(live))
            case _Wish.FAIL if self._going_down is not None:
                return Failed(live.run.id, self._downfall(live, self._going_down), live.usage())
            case None if error is not None:
                return Failed(live.run.id, self._as_kernel_error(live, error), live.usage())
            case _:  # its caller, or whoever shuts the loop down
                return Stopped(live.run.id, live.usage())

    def _as_kernel_error(self, live: LiveRun, error: BaseException) -> KernelError:
        scrub(error)
        if isinstance(error, KernelError):
            return error
        what = f"{type(error).__name__}: {error}"
        return self.error(what, error, is_retryable=not live.has_streamed)

    def _downfall(self, live: LiveRun, error: CoreError) -> CoreError:
        """The core's failure as that of one run, which may have streamed already."""
        if not live.has_streamed:
            return error
        return self.error("went down during the answer", error)

    def _report_down_if_empty(self) -> None:
        if self._going_down is not None and not self._live:
            error, self._going_down = self._going_down, None
            self.report(CoreDown(error))


def answering_model(request: LLMGenerate, models: Sequence[str]) -> str:
    """The model of `models` that answers a request: the one asked for, or else the default."""
    return request.model if request.model is not None and request.model in models else models[0]
