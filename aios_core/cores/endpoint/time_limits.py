"""The times that an endpoint may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

USAGE_PATIENCE_S: Final = 5.0  # for the usage, once the answer itself is complete


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The times that an endpoint may take, in seconds."""

    connect_s: float = 10.0
    first_chunk_s: float = 300.0  # from sending a request, the server's own queue included
    next_chunk_s: float = 60.0  # from one chunk to the next
    probe_s: float = 10.0  # for the list of models, when the core starts
