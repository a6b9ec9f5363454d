"""Replace attributes of a framework's classes, at once or at import, and restore them.

Classes are changed in place, so that names imported earlier (`from framework import Class`)
and existing instances are covered as well. A framework is never imported from here.
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
    """The replaced attributes of one module, with their former values."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._undo)

    def replace(self, owner: Any, name: str, value: object) -> None:
        """Set an attribute of a class or module, and keep its former value for `undo`."""
        if name in vars(owner):
            was = vars(owner)[name]
            self._undo.append(lambda: setattr(owner, name, was))
        else:
            self._undo.append(lambda: delattr(owner, name))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Restore all attributes, the latest first. Idempotent."""
        while self._undo:
            self._undo.pop()()


Patch = Callable[[ModuleType, Patches], None]


class ImportHook(MetaPathFinder):
    """Patches modules: loaded ones at once, others right after their own code has run.

    `apply` and `undo` are idempotent and may be called from any thread.
    """

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._wanted = dict(patches)
        self._done: dict[str, Patches] = {}
        self._is_on = False
        self._lock = threading.RLock()  # guards _done and _is_on; a patch may import

    def apply(self) -> None:
        """Patch loaded modules, and others when they are imported, until `undo`."""
        with self._lock:
            if self._is_on:
                return
            self._is_on = True
            sys.meta_path.insert(0, self)
            for name in self._wanted:
                if (module := sys.modules.get(name)) is not None and _is_ready(module):
                    self._patch(module)

    def undo(self) -> None:
        """Stop patching, and restore all patched modules."""
        with self._lock:
            self._is_on = False
            with suppress(ValueError):
                sys.meta_path.remove(self)
            while self._done:
                self._done.popitem()[1].undo()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python would, with a loader that patches it after its code has run."""
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
    """Return whether a module's code has run: one in mid-import does not call `find_spec` again."""
    return not getattr(module.__spec__, "_initializing", False)
