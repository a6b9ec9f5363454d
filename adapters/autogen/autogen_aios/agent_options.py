"""What a call says under `"aios"`: whose it is, and what that agent shall be like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aios_core.errors import InvalidRequest

_KEYS: Final = ("agent", "group", "priority", "weight", "budget")


def parse_agent_options(*sayings: Any) -> tuple[Any, dict[str, Any]]:
    """The agent (a name, an agent of the kernel, or None), and what `AgentSettings` may be told.

    Args:
        sayings: mappings or None; the later ones go before the earlier ones.

    Raises:
        InvalidRequest: one is no mapping, or has a key that there is not: a limit that is
            spelled wrong must not vanish.
    """
    said: dict[str, Any] = {}
    for saying in sayings:
        if not isinstance(saying or {}, Mapping):
            raise InvalidRequest(f"aios: got {saying!r:.200}; allowed: a mapping")
        said |= saying or {}
    if unknown := [key for key in said if key not in _KEYS]:
        raise InvalidRequest(f"aios: no key {unknown[0]!r}; have {list(_KEYS)}")
    return said.pop("agent", None), said
