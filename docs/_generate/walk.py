"""Every module and class of `aios_core`, wherever it is today."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, get_type_hints

import aios_core


@cache
def all_modules() -> tuple[ModuleType, ...]:
    """Import every module of the kernel. One with a missing library is left out."""
    found = []
    for info in pkgutil.walk_packages(aios_core.__path__, "aios_core."):
        if info.name.endswith("__main__") or ".testing" in info.name:
            continue
        try:
            found.append(importlib.import_module(info.name))
        except ImportError:
            continue
    return tuple(found)


def subclasses(base: type) -> Iterator[type]:
    """Yield every class of the package below a base that can be reached by its name."""
    seen: set[type] = set()
    waiting: list[type] = list(base.__subclasses__())
    while waiting:
        one = waiting.pop(0)
        waiting += one.__subclasses__()
        # A dataclass with slots replaces the class that it is made from, which stays behind.
        is_real = getattr(sys.modules.get(one.__module__), one.__name__, None) is one
        is_ours = one.__module__.partition(".")[0] == base.__module__.partition(".")[0]
        if is_real and is_ours and one not in seen:
            seen.add(one)
            yield one


def hints_of(thing: Any) -> dict[str, Any]:
    """Return the annotations of a class or function, also of names imported for types alone."""
    missing: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(thing, localns=missing)
        except NameError as exc:
            name = str(exc.name)
            missing[name] = _all_classes().get(name, Any)


@cache
def _all_classes() -> dict[str, Any]:
    return {
        name: value
        for module in all_modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__.startswith("aios_core")
    }
