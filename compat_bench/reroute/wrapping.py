"""Finds the fakes of a suite: the classes that its tests define, whenever they do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Final

_MARK: Final = "__rerouted__"


def is_of_suite(kind: type, root: Path) -> bool:
    """Return whether a class is defined by a test of a suite, or next to one."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or not (path := Path(file)).is_relative_to(root):  # nothing is looked up here
        return False
    return any("test" in part for part in path.relative_to(root).parts)


def subclasses(kind: type) -> Iterator[Any]:
    """All classes that are derived from one, each after those that it is derived from."""
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def replace(kind: Any, name: str, wrap: Callable[[Any], Any], defaults: Collection[Any]) -> None:
    """Wrap a method that a class has, unless it is one of the framework's defaults, or wrapped."""
    method = getattr(kind, name, None)
    if method is None or method in defaults or hasattr(method, _MARK):
        return
    wrapped = wraps(method)(wrap(method))
    setattr(wrapped, _MARK, True)
    setattr(kind, name, wrapped)


def on_each_subclass(kind: Any, hook: str, act: Callable[[Any], None]) -> None:
    """Act on each class that will be derived from one.

    Args:
        kind: the class.
        hook: the class method that Python or pydantic calls for a new one.
        act: gets the new class.
    """
    before = getattr(kind, hook)

    def hooked(cls: Any, **kwargs: Any) -> None:
        before.__func__(cls, **kwargs) if hasattr(before, "__func__") else before(**kwargs)
        act(cls)

    setattr(kind, hook, classmethod(hooked))
