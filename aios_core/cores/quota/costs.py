"""Estimate what a call takes from a quota, and learn from what calls really used. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aios_core.cores.quota.headers import Dimension

FIRST_RATIO: Final = 0.3  # tokens of a prompt by its upper bound, which counts bytes
FIRST_ANSWER: Final = 256.0  # tokens
_WEIGHT: Final = 0.1  # of a new call in the moving averages

Cost = Mapping[Dimension, float]
LEAST: Final[Cost] = dict.fromkeys(Dimension, 1.0)  # of any call


def cost_of(input_tokens: float, output_tokens: float) -> Cost:
    """Return the cost of a call with these tokens."""
    return {
        Dimension.REQUESTS: 1.0,
        Dimension.TOKENS: input_tokens + output_tokens,
        Dimension.INPUT_TOKENS: input_tokens,
        Dimension.OUTPUT_TOKENS: output_tokens,
    }


@dataclass(frozen=True, slots=True)
class CallSize:
    """The size of a call before it is sent."""

    prompt_tokens: int  # an upper bound, unless `is_exact`
    max_answer_tokens: int | None = None  # that its caller set; None: no limit
    is_exact: bool = False


class CostEstimator:
    """Estimates the cost of calls by the usage of earlier ones."""

    def __init__(self) -> None:
        self._ratio = FIRST_RATIO
        self._answer = FIRST_ANSWER

    def estimate(self, size: CallSize) -> Cost:
        """Estimate the cost of a call. Providers count the answer's limit, if one is set."""
        prompt = size.prompt_tokens * (1.0 if size.is_exact else self._ratio)
        answer = self._answer if size.max_answer_tokens is None else size.max_answer_tokens
        return cost_of(max(1.0, prompt), max(1.0, answer))

    def learn(self, size: CallSize, input_tokens: int, output_tokens: int) -> None:
        """Learn from the usage of a call that was served."""
        if input_tokens > 0 and size.prompt_tokens > 0 and not size.is_exact:
            ratio = min(1.0, input_tokens / size.prompt_tokens)
            self._ratio += _WEIGHT * (ratio - self._ratio)
        if output_tokens > 0:
            self._answer += _WEIGHT * (output_tokens - self._answer)
