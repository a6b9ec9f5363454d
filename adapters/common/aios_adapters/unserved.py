"""Warn once, at its first use, of a provider's client class that no patch covers.

Its calls go to the provider past the kernel. Adapters observe the first use; this module decides
whether a class is covered and words the warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from aios_core.launch.notices import give_notice

log = logging.getLogger(__name__)

# Parts of the names of frameworks' test classes, which call no provider.
_PRETENDING: Final = ("dummy", "echo", "fake", "mock", "replay", "scripted", "stub")


def is_served(kind: type, methods: Iterable[str], package: str) -> bool:
    """Return whether the kernel handles the calls of a class, or the class calls no provider.

    Args:
        kind: the class of a client.
        methods: the names of the methods by which it calls its provider.
        package: the adapter's package, which defines classes and patched methods of its own.
    """
    if any(mark in f"{kind.__module__}.{kind.__qualname__}".lower() for mark in _PRETENDING):
        return True
    if any(parent.__module__.partition(".")[0] == package for parent in kind.__mro__):
        return True
    found = (vars(parent).get(name) for parent in kind.__mro__ for name in methods)
    return any(_is_of(package, method) for method in found)


def _is_of(package: str, method: object) -> bool:
    """Return whether a method is defined in an adapter, except in the module that observes."""
    module = str(getattr(method, "__globals__", {}).get("__name__", ""))
    return module.partition(".")[0] == package and not module.endswith(".unserved")


def name_unserved(kind: type, instead: str, otherwise: str = "") -> None:
    """Warn once that a class calls its provider past the kernel, and name the replacement.

    Args:
        kind: the class of a client.
        instead: the class to use in its place.
        otherwise: another solution, if there is one.
    """
    another = f", or {otherwise}" if otherwise else ""
    give_notice(
        log,
        (__name__, kind),
        f"{kind.__name__} ({kind.__module__.partition('.')[0]}) calls its provider directly, past "
        "the kernel, which neither schedules nor counts nor limits these calls. To run them on the "
        f"kernel, use {instead} in its place, with a core for the provider's OpenAI-compatible "
        f"endpoint (AIOS_BASE_URL and AIOS_MODEL, or aios.toml){another}",
    )
