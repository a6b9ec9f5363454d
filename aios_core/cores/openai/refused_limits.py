"""Remember which token limits a server refuses, to leave out those that only a budget sets.

The rest of a budget may be more than a model can write, and some models refuse a limit under the
name that their server documents. The kernel ends an answer at its limit in any case.
"""

from __future__ import annotations

import re
from typing import Final

_ABOUT_LIMITS: Final = re.compile(
    r"max_tokens|max_completion_tokens|max_output_tokens|max_new_tokens"
    r"|completion tokens|output tokens|maximum context length",
    re.IGNORECASE,
)
_REFUSED: Final = (400, 413, 422)


class LimitMemory:
    """The token limits that a server refused, by model."""

    def __init__(self) -> None:
        self._least_refused: dict[str, int] = {}

    def allows(self, model: str, limit: int) -> bool:
        """Return whether to send a limit: not if an equal or smaller one was refused."""
        least = self._least_refused.get(model)
        return least is None or limit < least

    def is_refusal(self, status: int, message: str) -> bool:
        """Return whether a server may have refused a request for its limit."""
        return status in _REFUSED and bool(_ABOUT_LIMITS.search(message))

    def refused(self, model: str, limit: int) -> None:
        """Record that a server accepted a request only without this limit."""
        self._least_refused[model] = min(limit, self._least_refused.get(model, limit))
