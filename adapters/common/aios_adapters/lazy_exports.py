"""Import the names of a package on first use, and explain what to install if one is missing.

`aios run` and `install()` load the launcher of every adapter; a program must pay only for the
frameworks that it imports itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def export_lazily(names: Mapping[str, str], install: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports its public names on first use.

    Args:
        names: the module of each public name.
        install: the argument of ``pip install`` that provides a missing framework.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - the package uses it under this name
        if name not in names:
            raise AttributeError(name)
        try:
            return getattr(import_module(names[name]), name)
        except ModuleNotFoundError as exc:
            missing = f"{name} needs {exc.name}, which is not installed; install it with: "
            raise ImportError(f"{missing}pip install {install}") from exc

    return __getattr__
