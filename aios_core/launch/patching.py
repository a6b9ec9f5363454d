"""Attributes of a framework's classes replaced, at once or when imported, and given back.

Classes are changed in place, so that `from framework import Class` and instances
made earlier are served as well. A framework is never imported from here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class Patches:
    """The replaced attributes, and their originals."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._undo)

    def replace(self, owner: Any, name: str, value: object) -> None:
        """Set an attribute of a class or module, and remember how it was."""
        if name in vars(owner):
            was = vars(owner)[name]
            self._undo.append(lambda: setattr(owner, name, was))
        else:
            self._undo.append(lambda: delattr(owner, name))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Give everything back, the latest first. Idempotent."""
        while self._undo:
            self._undo.pop()()


Patch = Callable[[ModuleType, Patches], None]


class ImportHook(MetaPathFinder):
    """Patches modules: those that are there at once, others right after their own code has run.

    `apply` and `undo` are idempotent and may be called from any thread.
    """

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._wanted = dict(patches)
        self._done: dict[str, Patches] = {}
        self._is_on = False
        self._lock = threading.RLock()  # guards _done and _is_on; a patch may import

    def apply(self) -> None:
        """From now on, until `undo`."""
        with self._lock:
            if self._is_on:
                return
            self._is_on = True
            sys.meta_path.insert(0, self)
            for name in self._wanted:
                if (module := sys.modules.get(name)) is not None and _is_ready(module):
                    self._patch(module)

    def undo(self) -> None:
        """Give everything back."""
        with self._lock:
            self._is_on = False
            with suppress(ValueError):
                sys.meta_path.remove(self)
            while self._done:
                self._done.popitem()[1].undo()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module as it would be found, with our patch after its code."""
        if fullname not in self._wanted:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            with self._lock:
                self._patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec

    def _patch(self, module: ModuleType) -> None:
        if not self._is_on or module.__name__ in self._done:
            return
        patches = Patches()
        try:
            self._wanted[module.__name__](module, patches)
        except BaseException:
            patches.undo()
            raise
        self._done[module.__name__] = patches


def _is_ready(module: ModuleType) -> bool:
    """Return whether a module's own code has run, after which its finder is not needed."""
    return not getattr(module.__spec__, "_initializing", False)
