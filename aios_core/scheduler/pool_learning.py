"""Learn how a core's KV memory behaves: how fast it is filled, and how much of it can be promised.

A context that an agent leaves in KV memory while it waits for a tool saves its prefill later, and
costs room until then. Both are proportional to its length, so the time after which the room is
worth more than the prefill is the same for every context: the size of the memory divided by the
prefill rate (the five-minute rule of Gray and Putzolu, for KV memory).

The share of the memory that is promised may only shrink below `HIGHEST`, never grow beyond: other
programs may use the server too, but nothing makes its memory larger. The best sign of a full
memory is that a context that should still be there was computed again. Preemptions in the engine
are another; servers that reserve whole prompts rarely have any. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FIRST, LOWEST, HIGHEST = 0.90, 0.30, 0.95  # bounds of the promised share of the memory
CUT: Final = 0.95  # multiplies the share
STEP: Final = 0.01  # added to the share
MARGIN: Final = 0.10  # share of the memory that contexts of active agents may grow into
FEW_LOST, MANY_LOST = 0.03, 0.10  # shares of warm contexts that were computed again
UNKNOWN_TTL_S: Final = 5.0  # until the prefill rate is known
SHORTEST_TTL_S, LONGEST_TTL_S = 0.1, 120.0

_FEWEST_TOKENS: Final = 128  # computed tokens of a prompt from which a rate is measured
_DECAY: Final = 0.98  # of the known rate with each measurement
_KEPT: Final = 0.8  # share of a warm context that has to be cached for it to count as kept
_WEIGHT: Final = 0.1  # of the latest answer in the mean
_FEWEST_ANSWERS: Final = 8  # between two changes of the share


@dataclass(slots=True)
class PoolLearning:
    """The learned figures of one core's KV memory."""

    fixed_ttl_s: float | None = None  # in place of the measured one
    share: float = FIRST  # of the memory that is promised to active agents
    rate: float | None = None  # prompt tokens computed per second
    lost: float = 0.0  # mean share of warm contexts that were computed again
    reports_cache: bool = False  # the server has reported cached tokens
    _num_answers: int = 0  # since the share was changed
    _num_preemptions: int | None = None  # of the engine, at the last look

    def ttl_s(self, capacity: int, stated_rate: float | None = None) -> float:
        """Return for how long an idle context is worth its room, in seconds.

        Args:
            capacity: tokens of KV memory.
            stated_rate: prompt tokens per second, if the core measures that itself.
        """
        if self.fixed_ttl_s is not None:
            return self.fixed_ttl_s
        rate = stated_rate or self.rate
        if not rate:
            return UNKNOWN_TTL_S
        return min(LONGEST_TTL_S, max(SHORTEST_TTL_S, capacity / rate))

    def measure_prefill(self, computed_tokens: int, first_token_s: float) -> None:
        """Learn the prefill rate from one answer.

        The time to the first token includes waiting and other prompts, so each measurement is a
        lower bound: the largest one counts, and fades.
        """
        if computed_tokens < _FEWEST_TOKENS or first_token_s <= 0:
            return
        measured = computed_tokens / first_token_s
        self.rate = measured if self.rate is None else max(measured, self.rate * _DECAY)

    def answered(self, warm_tokens: int, cached_tokens: int, *, calls_wait: bool) -> None:
        """Learn from the answer to an active agent whether its context was still there.

        Args:
            warm_tokens: tokens of the context that its agent had left on the core.
            cached_tokens: tokens of the prompt that the server found in its memory.
            calls_wait: whether agents wait for room, so that a larger share would be used.
        """
        self.reports_cache = self.reports_cache or cached_tokens > 0
        if not self.reports_cache or warm_tokens < _FEWEST_TOKENS:
            return
        was_lost = cached_tokens < _KEPT * warm_tokens
        self.lost += _WEIGHT * (was_lost - self.lost)
        self._num_answers += 1
        if self._num_answers < _FEWEST_ANSWERS:
            return
        if self.lost > MANY_LOST:
            self._cut()
        elif self.lost < FEW_LOST and calls_wait:
            self.share = min(HIGHEST, self.share + STEP)
            self._num_answers = 0

    def look_at_preemptions(self, total: int) -> None:
        """Cut the share if the engine has preempted sequences since the last look."""
        if self._num_preemptions is not None and total > self._num_preemptions:
            self._cut()
        self._num_preemptions = total

    def _cut(self) -> None:
        self.share = max(LOWEST, self.share * CUT)
        self._num_answers = 0
