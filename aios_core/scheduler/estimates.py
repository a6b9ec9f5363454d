"""How long answers are expected to be, and how many bytes a token of a model has.

Learned from what was answered; before that, from the configuration. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from aios_core.token_estimate import TokenRatio

EXPECTED_ANSWER_TOKENS: Final = 512
_KEPT: Final = 50  # answers that are remembered of an agent, and of a model
_ENOUGH: Final = 3  # fewer answers say nothing
_MOST_AGENTS: Final = 10_000  # of which answers are remembered
_LEAST: Final = 16  # tokens that are expected of any answer


class AnswerSizes:
    """The lengths of the latest answers."""

    def __init__(self) -> None:
        self._sizes: deque[int] = deque(maxlen=_KEPT)

    def add(self, num_tokens: int) -> None:
        """Remember one more answer."""
        self._sizes.append(num_tokens)

    def percentile_90(self) -> int | None:
        """Return the length that nine of ten answers did not exceed; None for too few answers."""
        if len(self._sizes) < _ENOUGH:
            return None
        ranked = sorted(self._sizes)
        return ranked[(len(ranked) * 9) // 10]


class Estimates:
    """Expects of an agent, or else of a model, what nine of ten of its answers were."""

    def __init__(self, expected_answer_tokens: int = EXPECTED_ANSWER_TOKENS) -> None:
        self._default = expected_answer_tokens
        self._agents: OrderedDict[int, AnswerSizes] = OrderedDict()
        self._models: dict[str, AnswerSizes] = {}
        self._ratios: dict[str, TokenRatio] = {}

    def answer_tokens(self, pid: int, model: str) -> int:
        """Estimate the tokens of an answer."""
        for sizes in (self._agents.get(pid), self._models.get(model)):
            if sizes is not None and (size := sizes.percentile_90()) is not None:
                return max(_LEAST, size)
        return self._default

    def ratio(self, model: str) -> TokenRatio:
        """The bytes that a token of a model has; shared by all that use the model."""
        ratio = self._ratios.get(model)
        if ratio is None:
            ratio = self._ratios[model] = TokenRatio()
        return ratio

    def learn(self, pid: int, model: str, num_tokens: int) -> None:
        """Learn the number of tokens of an answer of a model to an agent."""
        if pid in self._agents:
            self._agents.move_to_end(pid)
        else:
            self._agents[pid] = AnswerSizes()
            if len(self._agents) > _MOST_AGENTS:
                self._agents.popitem(last=False)
        if model not in self._models:
            self._models[model] = AnswerSizes()
        self._agents[pid].add(num_tokens)
        self._models[model].add(num_tokens)
