"""Runs that know only their parent: which root each belongs to, and when that ends.

Frameworks with callbacks or spans (LangChain, LlamaIndex) tell of each run its id
and its parent's. A root with all that it starts is one agent's work.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from aios_core.adapting.callers import Caller, current_caller

_MAX_RUNS: Final = 100_000  # runs whose end was never told would stay for ever


@dataclass(frozen=True, slots=True)
class Root:
    """The outermost run that a run is a part of."""

    run_id: Hashable
    name: str
    caller: Caller  # the task or thread that began it


class RunTree:
    """Knows the root of every run that goes on, and tells when a root ends.

    Invariant: a root that has ended has no descendants here. (A cancelled run may
    end without a word; it goes with its root.) One lock; it is not held while
    `on_end` is called.
    """

    def __init__(self, on_end: Callable[[Root], None]) -> None:
        self._on_end = on_end
        self._roots: OrderedDict[Hashable, Root] = OrderedDict()
        self._families: dict[Hashable, set[Hashable]] = {}  # the runs of each root
        self._lock = threading.Lock()  # guards _roots and _families

    @property
    def num_runs(self) -> int:
        """How many runs go on."""
        return len(self._roots)

    def root_of(self, run_id: Hashable) -> Root | None:
        """The root of a run under way; None if nobody told us of the run."""
        return self._roots.get(run_id)

    def is_live(self, run_id: Hashable) -> bool:
        """Whether the run still goes on."""
        return run_id in self._roots

    def begin(self, run_id: Hashable, parent_id: Hashable | None, name: object) -> None:
        """A run begins. Without a parent, or with one that is not known, it is a root."""
        with self._lock:
            root = self._roots.get(parent_id) if parent_id else None
            root = root or Root(run_id, str(name or "run"), current_caller())
            self._roots[run_id] = root
            self._families.setdefault(root.run_id, set()).add(run_id)
        if len(self._roots) > _MAX_RUNS:
            self.end(next(iter(self._roots)))

    def end(self, run_id: Hashable) -> None:
        """A run ends; if it is a root, its family does. Nothing happens the second time."""
        with self._lock:
            if (root := self._roots.pop(run_id, None)) is None:
                return
            if root.run_id != run_id:
                self._families[root.run_id].discard(run_id)
                return
            for descendant in self._families.pop(run_id):
                self._roots.pop(descendant, None)
        self._on_end(root)
