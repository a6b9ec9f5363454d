"""A run on a simulated device, and the equal steps that the device takes at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aios_core.core import Progress, Run
from aios_core.messages import Completion, Delta, Message, Usage
from aios_core.snapshot import KVImage, Snapshot
from aios_core.testing.tokens import Answer

_NOTHING: Final = Delta()


@dataclass(slots=True, eq=False)
class Stride:
    """Equal steps that are taken at once."""

    started_at: float
    stall_s: float
    step_s: float
    num_steps: int
    decoding: list[SimulatedSequence]
    prefilling: list[tuple[SimulatedSequence, int]]  # with the tokens that each computes

    @property
    def ends_at(self) -> float:
        return self.started_at + self.stall_s + self.num_steps * self.step_s

    def cut_short(self, now: float) -> bool:
        """End the stride with the current step. Returns False if it already does."""
        elapsed = (now - self.started_at - self.stall_s) / self.step_s
        num_steps = max(1, math.ceil(elapsed - 1e-6))
        if num_steps >= self.num_steps:
            return False
        self.num_steps = num_steps
        return True


class SimulatedSequence:
    """A run on the device. Its context is its prompt and the tokens generated so far."""

    __slots__ = (
        "answer",
        "held",
        "num_cached",
        "num_computed",
        "num_lost",
        "num_output",
        "num_reported",
        "owns_images",
        "run",
        "shared",
    )

    def __init__(self, run: Run, answer: Answer) -> None:
        self.run = run
        self.answer = answer
        self.num_output = len(run.snapshot.output_ids) if run.snapshot is not None else 0
        self.num_reported = self.num_output
        self.held = 0  # tokens of KV memory, in whole blocks, without the shared prefix
        self.shared = 0  # tokens of the shared prefix that it uses
        self.num_computed = 0  # tokens of the context with KV in memory
        self.num_cached = 0  # tokens of the prompt that were in memory when it was first admitted
        self.num_lost = 0  # computed tokens that it had when it lost its memory
        self.owns_images = True  # those of the run, until it is admitted

    def __repr__(self) -> str:
        progress = f"{self.num_output} of {self.answer.num_tokens} tokens"
        return f"<SimulatedSequence {self.run.id}: {progress}>"

    @property
    def num_context(self) -> int:
        return self.run.prepared.num_tokens + self.num_output

    @property
    def missing(self) -> int:
        """Tokens of the context that are yet to be computed; 1 while it decodes."""
        return self.num_context - self.num_computed

    @property
    def num_left(self) -> int:
        return max(0, self.answer.num_tokens - self.num_output)

    @property
    def num_shared(self) -> int:
        """Tokens that the prompt has in common with the warm context, all but the last of them."""
        prepared, warm = self.run.prepared, self.run.warm
        stated = self.run.request.extra.get("sim_context_tokens")
        if stated is None and warm is not None:
            stated = common_prefix(prepared.prompt_ids, warm.prompt_ids + warm.output_ids)
        return min(int(stated or 0), prepared.num_tokens - 1)

    def pop_progress(self) -> tuple[Progress, ...]:
        """The tokens since the last report, if there are any."""
        first, self.num_reported = self.num_reported, self.num_output
        if first == self.num_output:
            return ()
        delta = _NOTHING
        if self.run.wants_deltas:
            delta = Delta(self.answer.between(first, self.num_output))
        return (Progress(self.run.id, self.num_output - first, delta),)

    def usage(self) -> Usage:
        return Usage(self.run.prepared.num_tokens, self.num_output, self.num_cached)

    def completion(self, model: str) -> Completion:
        message = Message("assistant", self.answer.text)
        return Completion(message, self.answer.finish_reason, self.usage(), model)

    def snapshot(self, model: str, image: KVImage | None) -> Snapshot:
        return Snapshot(
            model=model,
            prompt_ids=self.run.prepared.prompt_ids,
            output_ids=self.answer.ids(self.num_output),
            text=self.answer.between(0, self.num_output),
            kv=image,
        )


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Count the ids at the start of both that are the same."""
    for position, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return position
    return min(len(left), len(right))
