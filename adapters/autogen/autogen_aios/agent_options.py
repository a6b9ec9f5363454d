"""Read the option `"aios"` of a call: the agent that makes it, and the agent's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aios_core.errors import InvalidRequest

_KEYS: Final = ("agent", "group", "priority", "weight", "budget")


def parse_agent_options(*mappings: Any) -> tuple[Any, dict[str, Any]]:
    """Return the agent (a name, an agent of the kernel, or None), and values for `AgentSettings`.

    Args:
        mappings: mappings or None; later ones override earlier ones.

    Raises:
        InvalidRequest: one is not a mapping, or has an unknown key: a misspelled limit must not
            be ignored.
    """
    merged: dict[str, Any] = {}
    for mapping in mappings:
        if not isinstance(mapping or {}, Mapping):
            raise InvalidRequest(f"aios: got {mapping!r:.200}; allowed: a mapping")
        merged |= mapping or {}
    if unknown := [key for key in merged if key not in _KEYS]:
        raise InvalidRequest(f"aios: got the key {unknown[0]!r}; allowed: {list(_KEYS)}")
    return merged.pop("agent", None), merged
