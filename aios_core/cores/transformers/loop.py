"""The step loop: the one thread that runs the model.

Commands arrive through a queue and take effect between two steps; reports leave
through the sink, once for each step. Blocking work (reading an image from disk,
building a grammar) runs on `workers` and returns as a command.

Promises: every submitted run ends in exactly one final report, also when the loop
fails or is closed. When it fails, all runs fail, with a snapshot of the tokens that were
reported, then the core reports `CoreDown`.
`close` returns after the thread has ended.

Locking: `_lock` guards `_is_open`, so that no run is queued after the loop has ended.
Only the thread uses all other attributes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Final

import torch

from aios_core.core import (
    CoreDown,
    Failed,
    Finished,
    Preempted,
    Progress,
    Report,
    ReportSink,
    Run,
    Stopped,
)
from aios_core.cores.transformers.generation import Generation, GenerationFactory, release_images
from aios_core.cores.transformers.sequence import Engine, StepResult
from aios_core.errors import CoreError, KernelError, OutOfMemory
from aios_core.messages import Delta, Usage
from aios_core.snapshot import Snapshot

logger = logging.getLogger(__name__)

_RATE_TOKENS: Final = 64  # steps with fewer prompt tokens are too short to measure the rate
_RATE_WEIGHT: Final = 0.2  # of the latest step in the running mean
_REFILL_S: Final = 0.003  # wait of the next step for a new run, after a slot was freed


class _EndRequest(Enum):
    """A request to end a run before its answer is complete."""

    STOP = auto()
    PREEMPT = auto()


@dataclass(slots=True, eq=False)
class _LiveRun:
    """A run that has no final report yet."""

    run: Run
    generation: Generation | None = None  # None while it is being prepared
    end_request: _EndRequest | None = None


@dataclass(frozen=True, slots=True)
class _Begin:
    run: Run


@dataclass(frozen=True, slots=True)
class _Ready:
    run_id: int
    outcome: Generation | KernelError


@dataclass(frozen=True, slots=True)
class _End:
    run_id: int
    end_request: _EndRequest


@dataclass(frozen=True, slots=True)
class _Close:
    pass


_Command = _Begin | _Ready | _End | _Close


class StepLoop:
    """Runs generations on an engine, in a thread of its own, until closed."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        factory: GenerationFactory,
        sink: ReportSink,
        *,
        workers: Executor,
        models: Sequence[str],
        eos_ids: Sequence[int],
        keep_contexts: bool = False,
        num_threads: int | None = None,
        prefill_rate: float | None = None,
    ) -> None:
        self.prefill_rate = prefill_rate  # prompt tokens per second
        self._name = name
        self._models = tuple(models)
        self._engine = engine
        self._factory = factory
        self._sink = sink
        self._workers = workers
        self._eos_ids = tuple(eos_ids)
        self._keep_contexts = keep_contexts
        self._num_threads = num_threads
        self._commands: SimpleQueue[_Command] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_open = True
        self._submitted: set[int] = set()  # ids of runs without a final report
        self._live: dict[int, _LiveRun] = {}
        self._active: list[Generation] = []
        self._reports: list[Report] = []
        self._has_freed = False  # a slot, since the last wait for commands
        self._thread = threading.Thread(target=self._main, name=f"aios-core-{name}", daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self._is_open

    @property
    def num_running(self) -> int:
        return len(self._submitted)

    def submit(self, run: Run) -> bool:
        """Start a run at the next step. False, without any report, if the loop has ended."""
        with self._lock:
            if self._is_open:
                self._submitted.add(run.id)
                self._commands.put(_Begin(run))
            return self._is_open

    def preempt(self, run_id: int) -> None:
        self._commands.put(_End(run_id, _EndRequest.PREEMPT))

    def cancel(self, run_id: int) -> None:
        self._commands.put(_End(run_id, _EndRequest.STOP))

    def close(self) -> None:
        """Stop all runs and end the thread. Blocks until the current step ends. Idempotent."""
        self._refuse_more()
        self._commands.put(_Close())
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- the thread ---------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            if self._num_threads is not None:
                torch.set_num_threads(self._num_threads)
            while self._process_commands():
                if self._active:
                    self._step()
                    self._flush()
        except Exception as exc:
            logger.exception("core %r: the step loop failed", self._name)
            self._die(exc)
        else:
            self._refuse_more()
            self._stop_all()

    def _process_commands(self) -> bool:
        """Process commands until there is something to compute; False once the loop should end.

        Slots that commands free are reported before the next step. The scheduler then has
        `_REFILL_S` to fill them, since a late run would leave a slot empty for a whole step.
        """
        while True:
            try:
                command = self._next_command()
            except Empty:
                return True
            match command:
                case _Begin(run):
                    self._begin(run)
                case _Ready(run_id, outcome):
                    self._activate(run_id, outcome)
                case _End(run_id, end_request):
                    self._end(run_id, end_request)
                case _Close():
                    return False

    def _next_command(self) -> _Command:
        """Return the next command, waiting if there is nothing to compute. Raises `Empty`."""
        try:
            return self._commands.get_nowait()
        except Empty:
            self._flush()
        if not self._active:
            return self._commands.get()
        has_freed, self._has_freed = self._has_freed, False
        return self._commands.get(block=has_freed, timeout=_REFILL_S)

    def _begin(self, run: Run) -> None:
        self._live[run.id] = _LiveRun(run)
        if self._factory.may_block(run):
            self._workers.submit(self._prepare, run)
        else:
            self._activate(run.id, self._build(run))

    def _prepare(self, run: Run) -> None:
        """Start a run on a worker, and return the result to the loop as a command."""
        self._commands.put(_Ready(run.id, self._build(run)))

    def _build(self, run: Run) -> Generation | KernelError:
        try:
            return self._factory.begin(run)
        except KernelError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - one run must not end the loop of all
            error = CoreError(self._name, f"a run could not start: {exc!r}")
            error.__cause__ = exc
            return error

    def _activate(self, run_id: int, outcome: Generation | KernelError) -> None:
        live = self._live[run_id]
        if isinstance(outcome, KernelError):
            if live.end_request is _EndRequest.STOP:
                self._report_end(live, Stopped(run_id))
            else:
                self._report_end(live, Failed(run_id, outcome))
            return
        live.generation = outcome
        if live.end_request is not None:
            self._apply(live, live.end_request)
            return
        self._active.append(outcome)
        self._active.sort(key=lambda one: one.run.priority)  # stable: equals in order of arrival

    def _end(self, run_id: int, end_request: _EndRequest) -> None:
        live = self._live.get(run_id)
        if live is None:
            return
        if live.generation is not None:
            self._apply(live, end_request)
        elif live.end_request is not _EndRequest.STOP:
            live.end_request = end_request  # applied once the run is prepared

    def _apply(self, live: _LiveRun, end_request: _EndRequest) -> None:
        generation = live.generation
        assert generation is not None  # noqa: S101 - for the type checker; callers checked
        if end_request is _EndRequest.STOP:
            self._report_end(live, Stopped(live.run.id, generation.usage))
        else:
            snapshot = self._factory.suspend(generation, keep_companion=True)
            self._report_end(live, Preempted(live.run.id, snapshot))

    # --- one step -----------------------------------------------------------------------------

    def _step(self) -> None:
        started = time.perf_counter()
        by_sequence = {id(one.sequence): one for one in self._active}
        result = self._engine.step([one.sequence for one in self._active])
        self._measure(result, time.perf_counter() - started)
        for sequence, token in result.tokens:
            self._accept(by_sequence[id(sequence)], token)
        for sequence, message in result.out_of_memory:
            generation = by_sequence[id(sequence)]
            error = OutOfMemory(self._name, message)
            run_id = generation.run.id
            self._report_end(self._live[run_id], Failed(run_id, error, generation.usage))

    def _accept(self, generation: Generation, token: int) -> None:
        run_id = generation.run.id
        delta, reason = generation.accept(token, self._eos_ids)
        self._reports.append(Progress(run_id, 1, delta if generation.run.wants_deltas else Delta()))
        generation.num_reported += 1
        if reason is not None:
            completion = generation.completion(reason, self._model_of(generation.run))
            context = self._context(generation)
            self._report_end(self._live[run_id], Finished(run_id, completion, context))

    def _model_of(self, run: Run) -> str:
        """Return the model's requested name; the first one, if it serves as a fallback."""
        asked = run.request.model
        return asked if asked is not None and asked in self._models else self._models[0]

    def _context(self, generation: Generation) -> Snapshot | None:
        if not self._keep_contexts:
            return None
        return self._factory.suspend(generation, keep_companion=False)

    def _measure(self, result: StepResult, elapsed_s: float) -> None:
        if result.num_prefilled < _RATE_TOKENS or elapsed_s <= 0:
            return
        rate = result.num_prefilled / elapsed_s
        known = self.prefill_rate
        self.prefill_rate = rate if known is None else known + _RATE_WEIGHT * (rate - known)

    # --- end of runs and of the loop ----------------------------------------------------------

    def _report_end(self, live: _LiveRun, report: Report) -> None:
        """Free a run's memory and queue its final report. What the report holds is not freed."""
        run_id = live.run.id
        del self._live[run_id]
        if live.generation is not None:
            live.generation.sequence.drop_memory()
            if live.generation in self._active:
                self._active.remove(live.generation)
        self._submitted.discard(run_id)
        self._has_freed = True
        self._reports.append(report)

    def _flush(self) -> None:
        if self._reports:
            reports, self._reports = self._reports, []
            self._sink(reports)

    def _refuse_more(self) -> None:
        with self._lock:
            self._is_open = False

    def _remaining(self) -> Iterable[_LiveRun]:
        """Return the runs without a final report, including those still in the queue."""
        while True:
            try:
                command = self._commands.get_nowait()
            except Empty:
                break
            if isinstance(command, _Begin):
                release_images(command.run)
                self._live[command.run.id] = _LiveRun(command.run)
            elif isinstance(command, _Ready) and isinstance(command.outcome, Generation):
                self._live[command.run_id].generation = command.outcome
        return list(self._live.values())

    def _stop_all(self) -> None:
        for live in self._remaining():
            usage = live.generation.usage if live.generation else Usage()
            self._report_end(live, Stopped(live.run.id, usage))
        self._flush()

    def _die(self, exc: Exception) -> None:
        self._refuse_more()
        for live in self._remaining():
            error = CoreError(self._name, f"its step loop failed: {exc!r}", is_retryable=True)
            error.__cause__ = exc
            usage = live.generation.usage if live.generation else Usage()
            snapshot = self._factory.text_snapshot(live.generation) if live.generation else None
            self._report_end(live, Failed(live.run.id, error, usage, snapshot))
        down = CoreError(self._name, f"its step loop failed: {exc!r}", is_retryable=True)
        down.__cause__ = exc
        self._reports.append(CoreDown(down))
        self._flush()
