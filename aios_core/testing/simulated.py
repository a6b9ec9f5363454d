"""An LLM core that only keeps time: continuous batching by a cost model.

It admits, batches, runs out of KV memory and recovers as vLLM does: sequences are
admitted in order of arrival while their contexts fit; each step, every running
sequence that has its context computed emits a token, and the others share a chunk
of prefill; when the running ones outgrow the memory, the one admitted last loses
its KV and goes back to the head of the queue, to be computed again (`stats` counts
this thrashing).

Time is the loop's: virtual under `run_virtual`, where a day of a cluster takes
seconds and every run is the same. There is one timer for the whole core; steps in
which nothing changes are taken in one stride.

A request's size follows from its text, or from `extra`:

    sim_prompt_tokens    length of the prompt
    sim_output_tokens    true length of the answer (`Sampling.max_tokens` still limits it)
    sim_context_tokens   how much of the prompt the agent's last context already holds

Tokens are deterministic (`aios_core.testing.tokens`), so a resumed call can be
compared with an uninterrupted one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

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
from aios_core.testing.simulated_kv import DeviceMemory, SimulatedKV
from aios_core.testing.simulated_sequence import SimulatedSequence, Stride
from aios_core.testing.tokens import Answer, answer_key, encode_prompt, fake_prompt_ids

_WATERMARK: Final = 0.01  # of KV memory that stays free when a sequence is admitted, as in vLLM


class SimulatedCore:
    """A core without a model. Implements `aios_core.core.Core`.

    Progress is reported at a sequence's first token, then at least every
    `report_every` tokens. Answers without a stated length have
    `default_output_tokens`.

    Invariants (see `check`): each run is waiting or running; the KV held by running
    sequences is what the memory accounts for; a waiting one holds none.
    """

    def __init__(
        self,
        name: str = "simulated",
        *,
        models: Sequence[str] = ("simulated",),
        costs: CostModel | None = None,
        report_every: int = 16,
        default_output_tokens: int = 64,
    ) -> None:
        self.costs = costs or CostModel()
        self.stats = CoreStats()
        self.memory = DeviceMemory(self.costs.kv_capacity_tokens, self.costs.kv_bytes_per_token)
        self._name = name
        self._models = tuple(models)
        self._report_every = report_every
        self._default_output_tokens = default_output_tokens
        self._sequences: dict[int, SimulatedSequence] = {}
        self._waiting: deque[SimulatedSequence] = deque()
        self._running: dict[int, SimulatedSequence] = {}  # in order of admission
        self._ending: dict[int, _Ending] = {}  # runs to stop at the end of this step
        self._stride: Stride | None = None
        self._turn: asyncio.Handle | None = None  # when the stride ends, or the next one begins
        self._steps_unreported = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sink: ReportSink = _no_sink
        self._is_up = False

    def __repr__(self) -> str:
        return (
            f"<SimulatedCore {self._name!r}: {len(self._running)} running, "
            f"{len(self._waiting)} waiting, {self.memory!r}>"
        )

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
            kv_snapshots=True,
            tools=False,
            json_schema=False,
            warm_contexts=True,
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
        self._waiting.append(sequence)
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
        """Return the current load. Idle images count, since they hold memory."""
        return CoreLoad(
            slots=self.costs.slots,
            num_running=len(self._sequences),
            kv_tokens=self.memory.used,
            kv_capacity=self.memory.capacity,
            prefill_rate=self.costs.prefill_tokens_per_s,
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
        self.memory.check()
        waiting = {sequence.run.id for sequence in self._waiting}
        if waiting & self._running.keys() or waiting | self._running.keys() != set(self._sequences):
            raise KernelBug(f"{self!r}: a run is in two queues, or in none")
        if sum(sequence.held for sequence in self._running.values()) != self.memory.held:
            raise KernelBug(f"{self!r}: running sequences hold other KV than the memory counts")
        if any(sequence.held for sequence in self._waiting):
            raise KernelBug(f"{self!r}: a waiting sequence holds KV")
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
        self._admit()
        self._stride = self._plan(self._loop.time())
        if self._stride is not None:
            self._turn = self._loop.call_at(self._stride.ends_at, self._end)

    def _end(self) -> None:
        """Account for the stride."""
        assert self._stride is not None
        stride, self._stride, self._turn = self._stride, None, None
        self._count(stride)
        if reports := [*self._advance(stride), *self._end_runs()]:
            self._send(reports)
        else:
            self._begin()

    def _send(self, reports: Sequence[Report]) -> None:
        """Report; the receiver of an end may fill the slot before the next stride starts."""
        assert self._loop is not None
        self._turn = self._loop.call_soon(self._begin)
        self._sink(reports)

    def _count(self, stride: Stride) -> None:
        self.stats.busy_s += stride.stall_s + stride.num_steps * stride.step_s
        self.stats.num_steps += stride.num_steps
        self.stats.decoded_tokens += stride.num_steps * len(stride.decoding)
        self.stats.prefilled_tokens += sum(share for _, share in stride.prefilling)
        self.stats.num_images_dropped = self.memory.num_dropped

    # --- one stride ---------------------------------------------------------------------------

    def _plan(self, now: float) -> Stride | None:
        """Plan the longest run of equal steps, and reserve their KV beforehand."""
        swapped = self.memory.pop_swapped()
        self.stats.swapped_tokens += swapped
        self._make_room_for_a_step()
        running = tuple(self._running.values())
        if not running:
            return None
        decoding = [sequence for sequence in running if sequence.missing == 1]
        prefilling = self._share_chunk([seq for seq in running if seq.missing > 1])
        return Stride(
            started_at=now,
            stall_s=swapped / self.costs.swap_tokens_per_s,
            step_s=self.costs.step_s(len(decoding), sum(share for _, share in prefilling)),
            num_steps=1 if prefilling else self._num_equal_steps(decoding),
            decoding=decoding,
            prefilling=prefilling,
        )

    def _num_equal_steps(self, decoding: Sequence[SimulatedSequence]) -> int:
        """Until one is done, progress is due, or the memory is full."""
        until_done = min(sequence.num_left for sequence in decoding)
        until_report = self._report_every - self._steps_unreported
        room = (self.memory.capacity - self.memory.held) // len(decoding)
        return max(1, min(until_done, until_report, room))

    def _share_chunk(
        self, prefilling: Sequence[SimulatedSequence]
    ) -> list[tuple[SimulatedSequence, int]]:
        """Split a step's prefill tokens in order of admission."""
        left = self.costs.prefill_chunk_tokens
        shares = []
        for sequence in prefilling:
            share = min(left, sequence.missing)
            if share == 0:
                break
            shares.append((sequence, share))
            left -= share
        return shares

    def _make_room_for_a_step(self) -> None:
        """Evict the sequence admitted last until each of the others can grow by one token."""
        while (
            self.memory.held + len(self._running) > self.memory.capacity and len(self._running) > 1
        ):
            run_id, sequence = self._running.popitem()
            self.stats.num_thrashed += 1
            self.stats.recomputed_tokens += sequence.num_computed
            self._free(sequence)
            self._waiting.appendleft(self._sequences[run_id])

    def _advance(self, stride: Stride) -> list[Report]:
        """Give each sequence of a stride its tokens. Returns the reports that are due."""
        self._steps_unreported += stride.num_steps
        is_due = self._steps_unreported >= self._report_every
        if is_due:
            self._steps_unreported = 0
        reports: list[Report] = []
        for sequence in stride.decoding:
            self._emit(sequence, stride.num_steps)
            if is_due or not sequence.num_left:
                reports += self._report(sequence)
        for sequence, share in stride.prefilling:
            sequence.num_computed += share
            if not sequence.missing:
                sequence.num_computed -= 1  # `_emit` counts the last one
                self._emit(sequence, 1)
                reports += self._report(sequence)
        return reports

    def _emit(self, sequence: SimulatedSequence, num_tokens: int) -> None:
        if not self.memory.take(num_tokens):
            raise KernelBug(f"{self!r}: no room for tokens that were planned")
        sequence.held += num_tokens
        sequence.num_computed += num_tokens
        sequence.num_output += num_tokens

    def _report(self, sequence: SimulatedSequence) -> Iterator[Report]:
        """Progress, and the end if this is it."""
        yield from sequence.pop_progress()
        if not sequence.num_left:
            self._remove(sequence)
            context = sequence.snapshot(self._models[0], self._image(sequence))
            yield Finished(sequence.run.id, sequence.completion(self._models[0]), context)

    # --- admission and ends -------------------------------------------------------------------

    def _admit(self) -> None:
        """Admit waiting sequences in order, while their contexts fit."""
        while self._waiting and len(self._running) < self.costs.slots:
            sequence = self._waiting[0]
            if not self._has_room_for(sequence):
                return
            self._waiting.popleft()
            self._running[sequence.run.id] = sequence
            self._take_over_images(sequence)
            self.memory.take(sequence.num_context)
            sequence.held = sequence.num_context

    def _has_room_for(self, sequence: SimulatedSequence) -> bool:
        """Return whether a sequence's context fits, if necessary in place of idle images."""
        spare = self.memory.capacity * _WATERMARK if self._running else 0
        others = self.memory.held + len(self._running)  # each of them grows by a token this step
        return others + sequence.num_context + spare <= self.memory.capacity

    def _take_over_images(self, sequence: SimulatedSequence) -> None:
        """Start from the KV that the run brings along, if it still exists."""
        run = sequence.run
        kept = self._claim(run.snapshot)
        warm = self._claim(run.warm)
        if not kept:
            kept = sequence.num_cached = min(warm, sequence.num_shared)
            self.stats.cached_tokens += kept
        sequence.num_computed = min(kept, sequence.num_context - 1)
        sequence.owns_images = False

    def _claim(self, snapshot: Snapshot | None) -> int:
        """Take over the KV image of a snapshot on this device. Returns its number of tokens."""
        image = snapshot.kv if snapshot is not None else None
        if isinstance(image, SimulatedKV) and image.memory is self.memory:
            return self.memory.claim(image)
        if image is not None:
            image.release()
        return 0

    def _end_runs(self) -> list[Report]:
        """Preempt, cancel and fail what was asked for, unless it ended on its own."""
        endings, self._ending = self._ending, {}
        reports: list[Report] = []
        for run_id, ending in endings.items():
            if sequence := self._sequences.get(run_id):
                self._remove(sequence)
                reports += self._end_run(sequence, ending)
        return reports

    def _end_run(self, sequence: SimulatedSequence, ending: _Ending) -> Iterator[Report]:
        if ending == "preempt":
            yield from sequence.pop_progress()
            snapshot = sequence.snapshot(self._models[0], self._image(sequence))
            yield Preempted(sequence.run.id, snapshot)
            return
        self._free(sequence)
        if ending == "cancel":
            yield Stopped(sequence.run.id, sequence.usage())
        else:
            yield Failed(sequence.run.id, self._wrong_snapshot(sequence))

    def _remove(self, sequence: SimulatedSequence) -> None:
        del self._sequences[sequence.run.id]
        if self._running.pop(sequence.run.id, None) is None:
            self._waiting.remove(sequence)

    def _image(self, sequence: SimulatedSequence) -> KVImage | None:
        """The KV of a sequence that stops, as an image that stays on the device."""
        if sequence.owns_images:  # it never ran; hand back what it brought
            _release(sequence.run.warm)
            return sequence.run.snapshot.kv if sequence.run.snapshot else None
        num_computed = sequence.num_computed
        self._free(sequence)
        return self.memory.keep(num_computed) if num_computed else None

    def _free(self, sequence: SimulatedSequence) -> None:
        """Free all KV that a sequence holds or brought along."""
        self.memory.give(sequence.held)
        sequence.held = sequence.num_computed = 0
        if sequence.owns_images:
            _release(sequence.run.snapshot)
            _release(sequence.run.warm)

    def _drop_everything(self) -> None:
        for sequence in self._sequences.values():
            self._free(sequence)
        self._sequences.clear()
        self._waiting.clear()
        self._running.clear()
        self._ending.clear()
        self.memory.clear()
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
        _release(run.snapshot)
        _release(run.warm)
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


def _release(snapshot: Snapshot | None) -> None:
    if snapshot is not None and snapshot.kv is not None:
        snapshot.kv.release()


def _no_sink(_: Sequence[Report]) -> None:
    raise KernelBug("a core reported before it was started")
