"""A scheduling policy of another package: the shortest expected job first."""

from dataclasses import dataclass
from typing import Annotated

from aios_core.scheduler import Policy, Range, Rank, WaitingCall


@dataclass(frozen=True, slots=True)
class ShortestFirst(Policy):
    """Run the call first that is expected to be done first; calls of one length as they came.

    Shortest job first has the smallest mean waiting time, and lets long jobs wait without end.
    `max_wait_s` bounds that: a call that has waited longer goes before all later ones.
    """

    max_wait_s: float | None = 30.0
    prompt_weight: Annotated[float, Range(0, 1)] = 0.1  # of a prompt token, in answer tokens

    def rank(self, call: WaitingCall) -> Rank:
        return (call.expected_answer_tokens + self.prompt_weight * call.prompt_tokens, call.seq)
