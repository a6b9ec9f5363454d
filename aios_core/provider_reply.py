"""The reply of a provider that refused a call, and the pause that it asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aios_core.redaction import redact_values

UNKNOWN_PAUSE_S: Final = 1.0  # used where a requested time is not a number
LONGEST_PAUSE_S: Final = 86_400.0


def pause_of(claimed: object) -> float:
    """Return a requested pause in seconds, limited to 0 to one day. Never raises."""
    if isinstance(claimed, bool) or not isinstance(claimed, int | float):
        return UNKNOWN_PAUSE_S
    if claimed != claimed:  # noqa: PLR0124 - not a number
        return UNKNOWN_PAUSE_S
    return float(min(max(claimed, 0.0), LONGEST_PAUSE_S))


@dataclass(frozen=True, slots=True)
class ProviderReply:
    """The reply of a core's provider that refused a call."""

    status_code: int | None = None  # of HTTP; None: the error came inside an answer
    message: str = ""  # the provider's, without secrets
    code: str = ""
    request_id: str = ""  # to quote to the provider

    def __post_init__(self) -> None:
        for name in ("message", "code"):
            object.__setattr__(self, name, redact_values(getattr(self, name)))
