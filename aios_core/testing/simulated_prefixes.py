"""The prefix cache of a simulated device: what it keeps of contexts when their runs have ended.

It knows the last context of each agent (pid), in whole blocks, and prefixes that several
agents have in common, such as a system prompt: these are held once, however many
sequences use them, and are idle when none does. An agent's own tokens follow its shared
prefix, and are of use only while all of that is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from aios_core.errors import KernelBug
from aios_core.testing.cost_model import CostModel
from aios_core.testing.simulated_kv import DeviceMemory, SimulatedKV
from aios_core.testing.simulated_sequence import SimulatedSequence, common_prefix


@dataclass(slots=True)
class _Kept:
    """The idle context of an agent, beyond its shared prefix."""

    image: SimulatedKV
    run_id: int
    starts_at: int  # tokens of the shared prefix before it
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]

    def num_common(self, sequence: SimulatedSequence) -> int:
        """Tokens at the start of both contexts that are the same."""
        run = sequence.run
        if run.id == self.run_id or run.snapshot is not None:  # the same call, resumed
            return sequence.num_context
        stated = run.request.extra.get("sim_context_tokens")
        if stated is not None:
            return int(stated)
        return common_prefix(run.prepared.prompt_ids, self.prompt_ids + self.output_ids)


@dataclass(slots=True)
class _SharedPrefix:
    """A prefix that several agents have: held while sequences use it, else an idle image."""

    num_users: int = 0
    held: int = 0
    image: SimulatedKV | None = None

    @property
    def num_tokens(self) -> int:
        return self.held if self.image is None else self.image.num_tokens


class PrefixCache:
    """The idle contexts of one device by agent, and its shared prefixes by their length.

    With KV images, no prefix is shared, since an image holds the whole context.

    Invariant (see `check`): a shared prefix is held exactly while it has users.
    """

    def __init__(self, costs: CostModel, memory: DeviceMemory, *, has_images: bool) -> None:
        self._costs = costs
        self._has_images = has_images
        self._memory = memory
        self._contexts: dict[int, _Kept] = {}
        self._shared: dict[int, _SharedPrefix] = {}

    @property
    def held(self) -> int:
        """Tokens of the shared prefixes in use."""
        return sum(prefix.held for prefix in self._shared.values())

    def num_in_use(self, sequence: SimulatedSequence) -> int:
        """Tokens of a sequence's shared prefix that others hold already."""
        prefix = self._shared.get(self._shareable(sequence))
        return prefix.held if prefix is not None else 0

    def acquire(self, sequence: SimulatedSequence) -> int:
        """Let a sequence start from what is cached of its context. Returns these tokens."""
        sequence.shared = self._use_shared(self._shareable(sequence))
        kept = self._contexts.pop(sequence.run.pid, None)
        if kept is None:
            return sequence.shared
        left = self._memory.claim(kept.image)
        if kept.starts_at != sequence.shared:
            return sequence.shared
        common = min(kept.num_common(sequence), sequence.num_context - 1)
        return max(sequence.shared, self._costs.in_full_blocks(min(sequence.shared + left, common)))

    def publish(self, sequence: SimulatedSequence) -> None:
        """Share what a sequence has computed of a common prefix, for others to start from."""
        shareable = self._shareable(sequence)
        missing = shareable - sequence.shared
        if missing <= 0 or sequence.num_computed < shareable:
            return
        prefix = self._shared.setdefault(shareable, _SharedPrefix())
        if prefix.image is not None or prefix.num_tokens != sequence.shared:
            return  # another sequence has computed it meanwhile: this one keeps its copy
        prefix.num_users += sequence.shared == 0
        prefix.held += missing
        sequence.held -= missing
        sequence.shared = shareable

    def keep(self, sequence: SimulatedSequence) -> None:
        """Keep the computed blocks of a sequence, which has given back its memory."""
        num_tokens = self._costs.in_full_blocks(sequence.num_computed) - sequence.shared
        if num_tokens <= 0:
            return
        old = self._contexts.pop(sequence.run.pid, None)
        if old is not None:
            old.image.release()
        output_ids = sequence.answer.ids(sequence.num_output)
        self._contexts[sequence.run.pid] = _Kept(
            self._memory.keep(num_tokens),
            sequence.run.id,
            sequence.shared,
            sequence.run.prepared.prompt_ids,
            output_ids,
        )

    def leave_shared(self, sequence: SimulatedSequence) -> None:
        """Let a sequence go from its shared prefix, which stays as an idle image."""
        if not sequence.shared:
            return
        sequence.shared = 0
        prefix = self._shared[self._shareable(sequence)]
        prefix.num_users -= 1
        if not prefix.num_users:
            self._memory.give(prefix.held)
            prefix.image, prefix.held = self._memory.keep(prefix.held), 0

    def clear(self) -> None:
        """Forget everything; the memory drops its images itself."""
        self._contexts.clear()
        self._shared.clear()

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        if any(bool(prefix.held) != bool(prefix.num_users) for prefix in self._shared.values()):
            raise KernelBug("a shared prefix has no users and is held, or is not held by its users")

    def _use_shared(self, shareable: int) -> int:
        prefix = self._shared.get(shareable)
        if prefix is None:
            return 0
        if prefix.image is not None:
            num_tokens = self._memory.claim(prefix.image)
            prefix.image = None
            if not num_tokens or not self._memory.take(num_tokens):
                return 0
            prefix.held = num_tokens
        prefix.num_users += bool(prefix.held)
        return prefix.held

    def _shareable(self, sequence: SimulatedSequence) -> int:
        if self._has_images:
            return 0
        stated = int(sequence.run.request.extra.get("sim_shared_tokens", 0))
        return self._costs.in_full_blocks(min(stated, sequence.run.prepared.num_tokens - 1))
