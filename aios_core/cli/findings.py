"""What a check of `aios doctor` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aios_core.errors import ConfigError
from aios_core.redaction import redact_values


class Health(StrEnum):
    OK = "ok"
    ABSENT = "absent"  # not installed or not there, and nothing needs it
    DOUBTFUL = "doubtful"  # works, and is probably not what was meant
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    area: str
    name: str
    health: Health
    said: str
    mend: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)  # for programs

    def __post_init__(self) -> None:
        """Show no secret, whatever a server or a library answered."""
        for name in ("said", "mend", "facts"):
            object.__setattr__(self, name, redact_values(getattr(self, name)))


def misconfigured(exc: ConfigError) -> Finding:
    """Return the finding for a mistake in the configuration."""
    source = f" in {exc.source}" if exc.source else ""
    facts = {"key": exc.key, "got": repr(exc.got), "allowed": exc.allowed, "source": exc.source}
    mend = f"allowed: {exc.allowed}"
    return Finding(
        "configuration", exc.key, Health.BROKEN, f"got {exc.got!r}{source}", mend, facts=facts
    )
