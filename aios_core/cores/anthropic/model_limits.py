"""The limits of models: as the endpoint reports them, and as its refusals show them.

Pure. The API requires a limit for each answer, and refuses one that is above the model's own, or
that does not fit into the context window together with the prompt. Both refusals name the
numbers, so a core sends the request again with a limit that fits. Some models take no sampling
settings, or no structured outputs; a core leaves these out once a model has refused them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aios_core.untrusted.reported_numbers import whole_number

UNKNOWN_OUTPUT: Final = 32_000  # tokens of an answer; sent if no limit is set or known

# As in: max_tokens: 32000 > 8192, which is the maximum allowed number of output tokens
_ABOVE_OUTPUT: Final = re.compile(r"max_tokens\D*([\d,]+) > ([\d,]+)")
# As in: input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000
_ABOVE_WINDOW: Final = re.compile(r"([\d,]+) \+ ([\d,]+) > ([\d,]+)")
_ABOUT_FORMATS: Final = re.compile(
    r"output_config|output_format|structured output|output format", re.IGNORECASE
)
# As in: `temperature` is not supported for this model
_ABOUT_SAMPLING: Final = re.compile(
    r"\b(temperature|top_p|top_k)\b.*\b(supported|unsupported|deprecated|permitted|specified)",
    re.DOTALL | re.IGNORECASE,
)
_SAMPLING: Final = ("top_k", "top_p", "temperature")  # in the order in which they are given up
_REFUSED: Final = (400, 413, 422)


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The limits and features of one model. None: not known."""

    context_window: int | None = None  # tokens of the prompt
    max_output: int | None = None  # tokens of an answer
    has_structured_outputs: bool = True
    refused: frozenset[str] = frozenset()  # sampling settings that it does not take

    @classmethod
    def of_card(cls, card: Any) -> ModelLimits:
        """Read the description of a model (`GET /v1/models/...`)."""
        described = getattr(card, "capabilities", None)
        formats = getattr(described, "structured_outputs", None)
        return cls(
            whole_number(getattr(card, "max_input_tokens", None), at_least=1),
            whole_number(getattr(card, "max_tokens", None), at_least=1),
            getattr(formats, "supported", True) is not False,
        )


class LimitBook:
    """The limits of the models of one core."""

    def __init__(self) -> None:
        self._limits: dict[str, ModelLimits] = {}

    def __repr__(self) -> str:
        return f"<LimitBook: {self._limits}>"

    def of(self, model: str) -> ModelLimits:
        """Return the limits of a model, as far as known."""
        return self._limits.get(model, ModelLimits())

    def set(self, model: str, limits: ModelLimits) -> None:
        """Record the limits of a model."""
        self._limits[model] = limits

    def answer_limit(self, model: str, *wanted: int | None) -> int:
        """Return the limit to send: the first that is wanted, at most the model's own."""
        most = self.of(model).max_output
        limit = next((one for one in wanted if one is not None), most or UNKNOWN_OUTPUT)
        return limit if most is None else min(limit, most)

    def learn(self, model: str, body: Mapping[str, Any], status: int, message: str) -> int | None:
        """Learn from a refusal; return the limit for another try, or None if there is none.

        The limit is that of the body if something else can change.
        """
        if status not in _REFUSED:
            return None
        limit, known = int(body["max_tokens"]), self.of(model)
        if (above := _ABOVE_WINDOW.search(message)) is not None:
            used, _, window = map(_number, above.groups())
            return window - used if 0 < window - used < limit else None
        if (above := _ABOVE_OUTPUT.search(message)) is not None:
            most = _number(above[2])
            if not 0 < most < limit:
                return None
            self.set(model, replace(known, max_output=most))
            return most
        if (without := _without_refused(known, body, message)) is None:
            return None
        self.set(model, without)
        return limit


def _without_refused(
    known: ModelLimits, body: Mapping[str, Any], message: str
) -> ModelLimits | None:
    """Return limits without the feature that a refusal names; None if it names none in use."""
    uses_format = "format" in body.get("output_config", {})
    if uses_format and _ABOUT_FORMATS.search(message):
        return replace(known, has_structured_outputs=False)
    if _ABOUT_SAMPLING.search(message):
        named = [key for key in _SAMPLING if key in body and key in message]
        if named:
            return replace(known, refused=known.refused | {named[0]})
    return None


def _number(text: str) -> int:
    return int(text.replace(",", ""))
