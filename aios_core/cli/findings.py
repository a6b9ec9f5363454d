"""The findings that checks of `aios doctor` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from aios_core.errors import ConfigError
from aios_core.redaction import redact_values


class Health(StrEnum):
    OK = "ok"
    MISSING = "missing"  # not installed or not there, and nothing needs it
    WARNING = "warning"  # works, and is probably not what was meant
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    area: str
    name: str
    health: Health
    message: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)  # for programs

    def __post_init__(self) -> None:
        """Remove secrets from the texts, which may quote a server or a library."""
        for name in ("message", "fix", "facts"):
            object.__setattr__(self, name, redact_values(getattr(self, name)))


def misconfigured(exc: ConfigError) -> Finding:
    """Return the finding for a mistake in the configuration."""
    source = f" in {exc.source}" if exc.source else ""
    facts = {"key": exc.key, "got": repr(exc.got), "allowed": exc.allowed, "source": exc.source}
    fix = f"allowed: {exc.allowed}"
    return Finding(
        "configuration", exc.key, Health.ERROR, f"got {exc.got!r}{source}", fix, facts=facts
    )
