"""The sequences of a simulated device: what waits, what runs, and what the next step computes.

It follows the scheduler of vLLM's engine (version 1). A step has a limit of tokens. Running
sequences come first, in order of admission: each gets the tokens that its context lacks
(one, once its prompt is computed) and the KV blocks for them; if there are none, the sequence
admitted last loses its memory and goes back to the head of the queue. If none had to, waiting
sequences are admitted in order of arrival while the step has tokens left and the whole
context of the next one fits, in place of idle contexts; it starts from what is cached of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from aios_core.core import Run
from aios_core.errors import KernelBug
from aios_core.snapshot import KVImage, Snapshot
from aios_core.testing.cost_model import CoreStats, CostModel
from aios_core.testing.simulated_kv import DeviceMemory, SimulatedKV
from aios_core.testing.simulated_prefixes import PrefixCache
from aios_core.testing.simulated_sequence import SimulatedSequence, Stride

_Share = tuple[SimulatedSequence, int]  # a sequence, and the tokens that a step computes of it


class Batch:
    """The waiting and the running sequences of one device.

    Invariants (see `check`): each sequence is in one queue; the KV that running ones and
    shared prefixes hold is what the memory counts; a waiting one holds none.
    """

    def __init__(
        self, costs: CostModel, memory: DeviceMemory, stats: CoreStats, *, kv_snapshots: bool
    ) -> None:
        self._costs = costs
        self._memory = memory
        self._stats = stats
        self._has_images = kv_snapshots
        self._prefixes = PrefixCache(costs, memory, has_images=kv_snapshots)
        self._waiting: deque[SimulatedSequence] = deque()
        self._running: dict[int, SimulatedSequence] = {}  # in order of admission

    def __repr__(self) -> str:
        return f"<{len(self._running)} running, {len(self._waiting)} waiting, {self._memory!r}>"

    def run_ids(self) -> set[int]:
        """The runs of all sequences."""
        return {sequence.run.id for sequence in self._waiting} | self._running.keys()

    def add(self, sequence: SimulatedSequence) -> None:
        """Queue a sequence; it joins at the next step if there is room."""
        self._waiting.append(sequence)

    def plan(self, now: float, until_report: int) -> Stride | None:
        """Plan the next step, or the longest run of equal steps, and take the KV blocks for it."""
        swapped = self._memory.pop_swapped()
        self._stats.swapped_tokens += swapped
        num_thrashed = self._stats.num_thrashed
        shares = self._share_among_running()
        if self._stats.num_thrashed == num_thrashed:
            shares += self._admit(self._costs.prefill_chunk_tokens - sum(n for _, n in shares))
        if not shares:
            return None
        decoding = [sequence for sequence, _ in shares if sequence.missing == 1]
        prefilling = [(sequence, num) for sequence, num in shares if sequence.missing > 1]
        is_equal = not prefilling and self._stats.num_thrashed == num_thrashed
        num_steps = self._grow_equally(decoding, until_report) if is_equal else 1
        return Stride(
            started_at=now,
            stall_s=swapped / self._costs.swap_tokens_per_s,
            step_s=self._step_s(decoding, prefilling, num_steps),
            num_steps=num_steps,
            decoding=decoding,
            prefilling=prefilling,
        )

    def count(self, stride: Stride) -> None:
        """Count a stride that was taken."""
        stats = self._stats
        stats.busy_s += stride.stall_s + stride.num_steps * stride.step_s
        stats.num_steps += stride.num_steps
        stats.decoded_tokens += stride.num_steps * len(stride.decoding)
        stats.prefilled_tokens += sum(num_tokens for _, num_tokens in stride.prefilling)
        stats.evicted_tokens = self._memory.num_evicted

    def advance(self, sequence: SimulatedSequence, num_tokens: int) -> None:
        """Count computed tokens, and give back the blocks that were taken for more of them."""
        sequence.num_computed += num_tokens
        self._resize(sequence, sequence.num_computed)
        self._prefixes.publish(sequence)

    def take_off(self, sequence: SimulatedSequence) -> KVImage | None:
        """Remove a sequence. Its KV stays on the device: as an image, or in the prefix cache."""
        self._remove(sequence)
        run = sequence.run
        if sequence.owns_images:  # it never ran; hand back what it brought
            _release(run.warm)
            return run.snapshot.kv if run.snapshot else None
        if not self._has_images:
            self._let_go(sequence)
            return None
        num_computed = sequence.num_computed
        self._free(sequence)
        return self._memory.keep(num_computed) if num_computed else None

    def drop(self, sequence: SimulatedSequence) -> None:
        """Remove a sequence and the images that it brought; the prefix cache keeps the rest."""
        self._remove(sequence)
        self._let_go(sequence)

    def clear(self) -> None:
        """Drop everything, cached prefixes too."""
        for sequence in (*self._waiting, *self._running.values()):
            self._free(sequence)
        self._waiting.clear()
        self._running.clear()
        self._memory.clear()
        self._prefixes.clear()

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        self._memory.check()
        self._prefixes.check()
        if len(self.run_ids()) != len(self._waiting) + len(self._running):
            raise KernelBug(f"{self!r}: a run is in two queues")
        held = sum(sequence.held for sequence in self._running.values()) + self._prefixes.held
        if held != self._memory.held:
            raise KernelBug(f"{self!r}: {held} tokens are held, and the memory counts others")
        if any(sequence.held or sequence.shared for sequence in self._waiting):
            raise KernelBug(f"{self!r}: a waiting sequence holds KV")

    # --- one step -----------------------------------------------------------------------------

    def _share_among_running(self) -> list[_Share]:
        """Give running sequences the tokens of a step and the blocks for them, in order."""
        left = self._costs.prefill_chunk_tokens
        shares: list[_Share] = []
        for sequence in tuple(self._running.values()):
            num_tokens = min(left, sequence.missing)
            if not num_tokens or not self._make_room(sequence, num_tokens):
                break
            shares.append((sequence, num_tokens))
            left -= num_tokens
        return shares

    def _make_room(self, sequence: SimulatedSequence, num_tokens: int) -> bool:
        """Take blocks, if necessary of those admitted later. False if it lost its own memory."""
        while sequence.run.id in self._running:
            if self._resize(sequence, sequence.num_computed + num_tokens):
                return True
            self._thrash(self._running.popitem()[1])
        return False

    def _thrash(self, sequence: SimulatedSequence) -> None:
        """Let the sequence admitted last compute its context again, from what is left of it."""
        self._stats.num_thrashed += 1
        sequence.num_lost = sequence.num_computed
        self._let_go(sequence)
        self._waiting.appendleft(sequence)

    def _admit(self, num_left: int) -> list[_Share]:
        """Admit waiting sequences in order, while the step has tokens and their contexts fit."""
        shares: list[_Share] = []
        while self._waiting and num_left > 0 and len(self._running) < self._costs.slots:
            sequence = self._waiting[0]
            if not self._has_room_for(sequence):
                break
            self._waiting.popleft()
            self._running[sequence.run.id] = sequence
            self._start(sequence)
            num_tokens = min(num_left, sequence.missing)
            if not self._resize(sequence, sequence.num_computed + num_tokens):
                raise KernelBug(f"{self!r}: no room for a context that fits")
            shares.append((sequence, num_tokens))
            num_left -= num_tokens
        return shares

    def _has_room_for(self, sequence: SimulatedSequence) -> bool:
        """Return whether the whole context fits, if necessary in place of idle ones."""
        num_tokens = self._costs.in_blocks(sequence.num_context)
        own = num_tokens - self._prefixes.num_in_use(sequence)
        return self._memory.held + own <= self._memory.capacity

    def _start(self, sequence: SimulatedSequence) -> None:
        """Start from the KV that the run brings along, or that is cached, if it still exists."""
        run = sequence.run
        kept, warm = self._claim(run.snapshot), self._claim(run.warm)
        is_first = sequence.owns_images
        sequence.owns_images = False
        cached = self._prefixes.acquire(sequence)
        found = max(kept, cached, min(warm, sequence.num_shared))
        sequence.num_computed = min(found, sequence.num_context - 1)
        self._stats.recomputed_tokens += max(0, sequence.num_lost - sequence.num_computed)
        sequence.num_lost = 0
        if is_first and run.snapshot is None:
            sequence.num_cached = sequence.num_computed
            self._stats.queried_tokens += sequence.num_context
            self._stats.cached_tokens += sequence.num_cached

    def _grow_equally(self, decoding: Sequence[SimulatedSequence], until_report: int) -> int:
        """Take the blocks for equal steps: until one is done, progress is due, or memory full."""
        until_done = min(sequence.num_left for sequence in decoding)
        num_steps = max(1, min(until_done, until_report))
        free = self._memory.capacity - self._memory.held
        while num_steps > 1 and self._num_missing(decoding, num_steps) > free:
            num_steps //= 2
        for sequence in decoding:
            self._resize(sequence, sequence.num_computed + num_steps)
        return num_steps

    def _num_missing(self, sequences: Sequence[SimulatedSequence], num_tokens: int) -> int:
        """Tokens of KV memory that sequences need beyond theirs, to grow by so many each."""
        in_blocks = self._costs.in_blocks
        return sum(
            max(0, in_blocks(each.num_computed + num_tokens) - each.shared - each.held)
            for each in sequences
        )

    def _step_s(
        self, decoding: Sequence[SimulatedSequence], prefilling: Sequence[_Share], num_steps: int
    ) -> float:
        """Duration of each of some equal steps, during which the contexts grow."""
        context = sum(sequence.num_context for sequence in decoding)
        context += len(decoding) * (num_steps - 1) // 2
        return (
            self._costs.decode_step_s
            + self._costs.decode_s(len(decoding), context)
            + self._costs.prefill_s((each.num_computed, num) for each, num in prefilling)
        )

    # --- memory -------------------------------------------------------------------------------

    def _resize(self, sequence: SimulatedSequence, num_tokens: int) -> bool:
        """Hold the blocks of so many tokens. Changes nothing, and is false, if there are none."""
        more = self._costs.in_blocks(num_tokens) - sequence.shared - sequence.held
        if more > 0 and not self._memory.take(more):
            return False
        if more < 0:
            self._memory.give(-more)
        sequence.held += more
        return True

    def _let_go(self, sequence: SimulatedSequence) -> None:
        """Free a sequence; what it has computed stays in the prefix cache."""
        self._memory.give(sequence.held)
        sequence.held = 0
        self._prefixes.keep(sequence)
        self._free(sequence)

    def _free(self, sequence: SimulatedSequence) -> None:
        """Free all KV that a sequence holds or brought along."""
        self._memory.give(sequence.held)
        sequence.held = sequence.num_computed = 0
        self._prefixes.leave_shared(sequence)
        if sequence.owns_images:
            release_images(sequence.run)

    def _remove(self, sequence: SimulatedSequence) -> None:
        if self._running.pop(sequence.run.id, None) is None:
            self._waiting.remove(sequence)

    def _claim(self, snapshot: Snapshot | None) -> int:
        """Take over the KV image of a snapshot on this device. Returns its number of tokens."""
        image = snapshot.kv if snapshot is not None else None
        if isinstance(image, SimulatedKV) and image.memory is self._memory:
            return self._memory.claim(image)
        if image is not None:
            image.release()
        return 0


def release_images(run: Run) -> None:
    """Free the images that a run brought along."""
    _release(run.snapshot)
    _release(run.warm)


def _release(snapshot: Snapshot | None) -> None:
    if snapshot is not None and snapshot.kv is not None:
        snapshot.kv.release()
