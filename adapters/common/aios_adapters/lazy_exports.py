"""Names of a package that are imported when they are used, with a clear word if they cannot be.

`aios run` and `install()` look into every adapter; only the framework that a
program uses shall be imported for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def export_lazily(names: Mapping[str, str], install: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package.

    Args:
        names: which module each public name is in.
        install: what pip is told, if a framework is missing.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes the package's
        if name not in names:
            raise AttributeError(name)
        try:
            return getattr(import_module(names[name]), name)
        except ModuleNotFoundError as exc:
            missing = f"{name} needs {exc.name}, which is not installed; install it with: "
            raise ImportError(f"{missing}pip install {install}") from exc

    return __getattr__
