"""Choose between chat completions and the Responses API, for each model of an endpoint.

Some of OpenAI's models have only the Responses API. An endpoint names it when it refuses the
first chat with such a model; the call is then repeated, and later calls use the right API.
"""

from __future__ import annotations

import re
from typing import Final, Literal

API = Literal["chat", "responses"]

_NEEDS_RESPONSES: Final = re.compile(r"\bv1/responses\b|\bresponses api\b", re.IGNORECASE)
_NO_THOUGHTS: Final = re.compile(r"encrypted content is not supported", re.IGNORECASE)
_REFUSED: Final = (400, 404, 405)


class ApiChoice:
    """The API of each model, as configured or as learned from refusals.

    Args:
        wanted: "auto" starts with chat completions.
    """

    def __init__(self, wanted: Literal["auto"] | API) -> None:
        self._wanted = wanted
        self._with_responses: set[str] = set()
        self._without_thoughts: set[str] = set()

    def of(self, model: str) -> API:
        """Return the API to use for a model."""
        if self._wanted != "auto":
            return self._wanted
        return "responses" if model in self._with_responses else "chat"

    def has_thoughts(self, model: str) -> bool:
        """Return whether to request encrypted thoughts: not of a model that refused that."""
        return model not in self._without_thoughts

    def learn(self, model: str, status: int, message: str) -> bool:
        """Learn from a refusal. Returns whether the request is now made in another way."""
        if status not in _REFUSED:
            return False
        if self.of(model) == "responses":
            is_new = bool(_NO_THOUGHTS.search(message)) and self.has_thoughts(model)
            self._without_thoughts |= {model} if is_new else set()
            return is_new
        if self._wanted == "auto" and _NEEDS_RESPONSES.search(message):
            self._with_responses.add(model)
            return True
        return False
