"""Read the exceptions of a provider's client library.

The clients of OpenAI and Anthropic are generated from one template: their exceptions have equal
names and attributes, and only the library for HTTP below them differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from aios_core.cores.endpoint.errors import innermost_cause


class FailureKind(Enum):
    """The kinds of failures between a client library and its endpoint."""

    REFUSED = auto()  # the endpoint answered with an error status
    UNREACHABLE = auto()  # no connection was made, so nothing was sent
    BROKEN = auto()  # the connection broke
    OTHER = auto()  # the client gave up for a reason of its own


@dataclass(frozen=True, slots=True)
class ClientFailure:
    """A failure that a client library reported."""

    kind: FailureKind
    reason: str
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None

    @classmethod
    def of(cls, exc: Exception, client: Any, http: Any) -> ClientFailure | None:
        """Read an exception of the modules `client` and `http`; None if it is not theirs."""
        error: Any = exc
        if isinstance(exc, client.APIStatusError):
            status, headers = error.status_code, error.response.headers
            return cls(FailureKind.REFUSED, error.message, status, headers, error.body)
        if isinstance(exc, client.APIConnectionError):
            never_sent = isinstance(exc.__cause__, (http.ConnectError, http.ConnectTimeout))
            kind = FailureKind.UNREACHABLE if never_sent else FailureKind.BROKEN
            return cls(kind, innermost_cause(exc))
        if isinstance(exc, http.HTTPError):
            return cls(FailureKind.BROKEN, innermost_cause(exc))
        if isinstance(exc, client.APIError):
            return cls(FailureKind.OTHER, error.message)
        return None
