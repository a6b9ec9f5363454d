"""Name clients of a provider that no patch serves, once, at their first use.

Adapters find out where a framework's clients are used; here is what they share.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from aios_core.launch.notices import give_notice

log = logging.getLogger(__name__)

# Classes of frameworks' own tests, which ask no provider.
_PRETENDING: Final = ("dummy", "echo", "fake", "mock", "replay", "scripted", "stub")


def is_served(kind: type, methods: Iterable[str], package: str) -> bool:
    """Return whether the kernel answers or schedules the calls of a class, or it asks no provider.

    Args:
        kind: the class of a client.
        methods: those by which it asks its provider.
        package: the adapter's, whose own classes and patched methods count.
    """
    if any(mark in f"{kind.__module__}.{kind.__qualname__}".lower() for mark in _PRETENDING):
        return True
    if any(parent.__module__.partition(".")[0] == package for parent in kind.__mro__):
        return True
    found = (vars(parent).get(name) for parent in kind.__mro__ for name in methods)
    return any(_is_of(package, method) for method in found)


def _is_of(package: str, method: object) -> bool:
    """Return whether a method is defined in an adapter, and is not the one that only looks on."""
    home = str(getattr(method, "__globals__", {}).get("__name__", ""))
    return home.partition(".")[0] == package and not home.endswith(".unserved")


def name_unserved(kind: type, instead: str, otherwise: str = "") -> None:
    """Report once that a class asks its provider past the kernel, and what to use instead.

    Args:
        kind: the class of a client.
        instead: what to use in its place, by name.
        otherwise: another way, if there is one.
    """
    another = f", or {otherwise}" if otherwise else ""
    give_notice(
        log,
        (__name__, kind),
        f"{kind.__name__} ({kind.__module__.partition('.')[0]}) asks its provider itself, past the "
        "kernel, which neither schedules nor counts nor limits these calls. To have them on the "
        f"kernel, use {instead} in its place, with a core for the provider's OpenAI-compatible "
        f"endpoint (AIOS_BASE_URL and AIOS_MODEL, or aios.toml){another}",
    )
