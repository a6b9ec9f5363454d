"""An LLM core that only keeps time: continuous batching by a cost model.

It admits, batches, caches prefixes and runs out of KV memory as vLLM's engine (version 1)
does; see `aios_core.testing.simulated_batch`. Idle contexts are evicted block by
block from their ends, the least recently used first. By default, snapshots hold no KV,
as on a server; with `kv_snapshots`, a suspended run and the context of an agent are
images that the kernel can move to the host and back.

Time is the loop's: virtual under `run_virtual`, where a day of a cluster takes
seconds and every run is the same. There is one timer for the whole core; steps in
which nothing changes are taken in one stride.

A request's size follows from its text, or from `extra`:

    sim_prompt_tokens    length of the prompt
    sim_output_tokens    true length of the answer (`Sampling.max_tokens` still limits it)
    sim_context_tokens   how much of the prompt the agent's last context already holds
    sim_shared_tokens    how much of its start all prompts have that state the same number

Tokens are deterministic (`aios_core.testing.tokens`), so a resumed call can be
compared with an uninterrupted one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from aios_core.core import (
    Capabilities,
    CoreDown,
    CoreLoad,
    Failed,
    Finished,
    Preempted,
    Prepared,
    Report,
    ReportSink,
    Run,
    Stopped,
)
from aios_core.errors import (
    ContextOverflow,
    CoreError,
    CoreUnavailable,
    InvalidRequest,
    KernelBug,
    NoSuchObject,
    SnapshotError,
)
from aios_core.snapshot import KVImage, Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.cost_model import CoreStats, CostModel
from aios_core.testing.simulated_batch import Batch, release_images
from aios_core.testing.simulated_kv import DeviceMemory
from aios_core.testing.simulated_sequence import SimulatedSequence, Stride
from aios_core.testing.tokens import Answer, answer_key, encode_prompt, fake_prompt_ids


class SimulatedCore:
    """A core without a model. Implements `aios_core.core.Core`.

    Progress is reported at a sequence's first token, then at least every
    `report_every` tokens. Answers without a stated length have
    `default_output_tokens`. With `kv_snapshots`, snapshots and contexts hold KV images.

    Invariants (see `check`): each run is waiting or running; while there is one, the core
    has a timer; those of the batch.
    """

    def __init__(
        self,
        name: str = "simulated",
        *,
        models: Sequence[str] = ("simulated",),
        costs: CostModel | None = None,
        kv_snapshots: bool = False,
        report_every: int = 16,
        default_output_tokens: int = 64,
    ) -> None:
        self.costs = costs or CostModel()
        self.stats = CoreStats()
        self.memory = DeviceMemory(
            self.costs.in_full_blocks(self.costs.kv_capacity_tokens),
            self.costs.kv_bytes_per_token,
            self.costs.block_tokens,
        )
        self._batch = Batch(self.costs, self.memory, self.stats, kv_snapshots=kv_snapshots)
        self._has_images = kv_snapshots
        self._name = name
        self._models = tuple(models)
        self._report_every = report_every
        self._default_output_tokens = default_output_tokens
        self._sequences: dict[int, SimulatedSequence] = {}
        self._ending: dict[int, _Ending] = {}  # runs to stop at the end of this step
        self._stride: Stride | None = None
        self._turn: asyncio.Handle | None = None  # when the stride ends, or the next one begins
        self._steps_unreported = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sink: ReportSink = _no_sink
        self._is_up = False

    def __repr__(self) -> str:
        return f"<SimulatedCore {self._name!r}: {self._batch!r}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def models(self) -> Sequence[str]:
        return self._models

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            context_window=self.costs.longest_sequence,
            preemptible=True,
            exact_resume=True,
            kv_snapshots=self._has_images,
            tools=False,
            json_schema=False,
            warm_contexts=self._has_images,
            notes=("simulated: answers are words without sense",),
        )

    async def start(self, sink: ReportSink) -> None:
        """Start the device on the time of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._is_up = True

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Count the tokens of a request. Raises `InvalidRequest` if it asks for tools or JSON."""
        self._refuse_what_it_cannot(request)
        wanted = request.extra.get("sim_prompt_tokens")
        if wanted is None:
            ids = encode_prompt(request.messages)
        else:
            ids = fake_prompt_ids(int(wanted), request.messages)
        room = self.costs.longest_sequence - len(ids)
        if room < 1:
            raise ContextOverflow(len(ids), self.costs.longest_sequence, self._models[0])
        return Prepared(len(ids), min(room, request.sampling.max_tokens or room), ids)

    def run(self, run: Run) -> None:
        """Queue a run; it joins at the next step if there is room."""
        if not self._is_up:
            self._refuse(run)
            return
        sequence = SimulatedSequence(run, self._answer(run))
        self._sequences[run.id] = sequence
        snapshot = run.snapshot
        if snapshot is not None and snapshot.model != self._models[0]:
            self._ending[run.id] = "fail"
        self._batch.add(sequence)
        self._wake()

    def preempt(self, run_id: int) -> None:
        """Stop a run at the end of this step, with a snapshot."""
        if run_id in self._sequences:
            self._ending.setdefault(run_id, "preempt")
            self._wake()

    def cancel(self, run_id: int) -> None:
        """Drop a run at the end of this step."""
        if run_id in self._sequences:
            self._ending[run_id] = "cancel"
            self._wake()

    def crash(self, message: str = "the device fell off the bus") -> None:
        """Die as a device does: every run fails, then the core is down until `start`."""
        error = CoreError(self._name, message, is_retryable=True)
        failed = [Failed(i, error, seq.usage()) for i, seq in self._sequences.items()]
        self._drop_everything()
        self._is_up = False
        self._sink([*failed, CoreDown(error)])

    def load(self) -> CoreLoad:
        """Return the current load. Idle contexts count only if they are images of snapshots."""
        return CoreLoad(
            slots=self.costs.slots,
            num_running=len(self._sequences),
            kv_tokens=self.memory.used if self._has_images else self.memory.held,
            kv_capacity=self.memory.capacity,
            prefill_rate=self.costs.prefill_tokens_per_s,
            num_engine_preemptions=self.stats.num_thrashed,
            prefix_queried_tokens=self.stats.queried_tokens,
            prefix_hit_tokens=self.stats.cached_tokens,
            is_up=self._is_up,
        )

    def open_image(self, path: Path) -> KVImage:
        """Raise `SnapshotError`: simulated memory does not outlive its process."""
        raise SnapshotError(f"core {self.name!r} takes no KV images, such as {path.name}")

    async def close(self) -> None:
        """Stop all runs and free everything. Idempotent."""
        stopped = [Stopped(run_id, seq.usage()) for run_id, seq in self._sequences.items()]
        self._drop_everything()
        self._is_up = False
        if stopped:
            self._sink(stopped)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds. For tests and debugging."""
        self._batch.check()
        if self._batch.run_ids() != self._sequences.keys():
            raise KernelBug(f"{self!r}: a run is in no queue")
        if self._sequences and self._turn is None:
            raise KernelBug(f"{self!r}: stands still")

    # --- time: one timer, at the end of each stride -------------------------------------------

    def _wake(self) -> None:
        """React to a change: end the stride with the current step, or start one."""
        assert self._loop is not None, "start the core first"
        if self._turn is None:
            self._turn = self._loop.call_soon(self._begin)
        elif self._stride is not None and self._stride.cut_short(self._loop.time()):
            self._turn.cancel()
            self._turn = self._loop.call_at(self._stride.ends_at, self._end)

    def _begin(self) -> None:
        """Stop what shall stop, admit what fits, and start the next stride."""
        assert self._loop is not None
        self._turn = None
        if reports := self._end_runs():
            self._send(reports)
            return
        until_report = self._report_every - self._steps_unreported
        self._stride = self._batch.plan(self._loop.time(), until_report)
        if self._stride is not None:
            self._turn = self._loop.call_at(self._stride.ends_at, self._end)

    def _end(self) -> None:
        """Account for the stride."""
        assert self._stride is not None
        stride, self._stride, self._turn = self._stride, None, None
        self._batch.count(stride)
        if reports := [*self._advance(stride), *self._end_runs()]:
            self._send(reports)
        else:
            self._begin()

    def _send(self, reports: Sequence[Report]) -> None:
        """Report; the receiver of an end may fill the slot before the next stride starts."""
        assert self._loop is not None
        self._turn = self._loop.call_soon(self._begin)
        self._sink(reports)

    # --- one stride ---------------------------------------------------------------------------

    def _advance(self, stride: Stride) -> list[Report]:
        """Give each sequence of a stride its tokens. Returns the reports that are due."""
        self._steps_unreported += stride.num_steps
        is_due = self._steps_unreported >= self._report_every
        if is_due:
            self._steps_unreported = 0
        reports: list[Report] = []
        for sequence in stride.decoding:
            self._batch.advance(sequence, stride.num_steps)
            sequence.num_output += stride.num_steps
            if is_due or not sequence.num_left:
                reports += self._report(sequence)
        for sequence, num_tokens in stride.prefilling:
            self._batch.advance(sequence, num_tokens)
            if not sequence.missing:
                sequence.num_output += 1
                reports += self._report(sequence)
        return reports

    def _report(self, sequence: SimulatedSequence) -> Iterator[Report]:
        """Progress, and the end if this is it."""
        yield from sequence.pop_progress()
        if not sequence.num_left:
            snapshot = self._take_off(sequence)
            context = snapshot if self._has_images else None
            yield Finished(sequence.run.id, sequence.completion(self._models[0]), context)

    # --- ends ---------------------------------------------------------------------------------

    def _end_runs(self) -> list[Report]:
        """Preempt, cancel and fail what was asked for, unless it ended on its own."""
        endings, self._ending = self._ending, {}
        reports: list[Report] = []
        for run_id, ending in endings.items():
            if sequence := self._sequences.get(run_id):
                reports += self._end_run(sequence, ending)
        return reports

    def _end_run(self, sequence: SimulatedSequence, ending: _Ending) -> Iterator[Report]:
        if ending == "preempt":
            yield from sequence.pop_progress()
            yield Preempted(sequence.run.id, self._take_off(sequence))
            return
        del self._sequences[sequence.run.id]
        self._batch.drop(sequence)
        if ending == "cancel":
            yield Stopped(sequence.run.id, sequence.usage())
        else:
            yield Failed(sequence.run.id, self._wrong_snapshot(sequence))

    def _take_off(self, sequence: SimulatedSequence) -> Snapshot:
        """Take a sequence off the device, with all that is needed to continue it."""
        del self._sequences[sequence.run.id]
        image = self._batch.take_off(sequence)
        return sequence.snapshot(self._models[0], image)

    def _drop_everything(self) -> None:
        self._batch.clear()
        self._sequences.clear()
        self._ending.clear()
        self._stride = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    # --- requests -----------------------------------------------------------------------------

    def _refuse_what_it_cannot(self, request: LLMGenerate) -> None:
        if request.model is not None and request.model not in self._models:
            raise NoSuchObject("model", request.model, self._models)
        if request.tools and request.chosen_tool != "none":
            raise InvalidRequest(f"{self._name!r} is simulated and calls no tools")
        if request.response_format is not None and request.response_format.is_constraint:
            raise InvalidRequest(f"{self._name!r} is simulated and writes no JSON")

    def _refuse(self, run: Run) -> None:
        assert self._loop is not None, "start the core first"
        error = CoreUnavailable(f"core {self._name!r} is down", retry_after_s=1.0)
        release_images(run)
        self._loop.call_soon(self._sink, [Failed(run.id, error)])

    def _answer(self, run: Run) -> Answer:
        """Return the answer of a run: a function of its prompt and seed only."""
        sampling, extra = run.request.sampling, run.request.extra
        length = extra.get("sim_output_tokens")
        if length is None:  # on and on to its limit, if it has one
            length = (sampling.max_tokens or self._default_output_tokens - 1) + 1
        return Answer.write(
            answer_key(run.prepared.prompt_ids, sampling.seed if sampling.temperature else None),
            int(length),
            run.prepared.max_tokens,
            sampling.stop,
        )

    def _wrong_snapshot(self, sequence: SimulatedSequence) -> SnapshotError:
        snapshot = sequence.run.snapshot
        theirs = snapshot.model if snapshot is not None else None
        return SnapshotError(f"the snapshot is of {theirs!r}; this core runs {self._models[0]!r}")


_Ending = Literal["preempt", "cancel", "fail"]


def _no_sink(_: Sequence[Report]) -> None:
    raise KernelBug("a core reported before it was started")
