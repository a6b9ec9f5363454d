"""Runs that know only their parent: which root each belongs to, and when that ends.

Frameworks with callbacks or spans (LangChain, LlamaIndex) tell of each run its id
and its parent's. A root with all that it starts is one agent's work. A run inside of
another that belongs to a conversation of its own is a root too, and ends at the
latest with the one around it.
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
    """The outermost run of its conversation that a run is a part of."""

    run_id: Hashable
    name: str
    caller: Caller  # the task or thread that began it
    conversation: Hashable = None  # that it said it belongs to, such as a thread's id


class RunTree:
    """Knows the root of every run that goes on, and tells when a root ends.

    Invariant: a root that has ended has no descendants here. (A cancelled run may
    end without a word; it goes with its root.) One lock; it is not held while
    `on_end` is called.
    """

    def __init__(self, on_end: Callable[[Root], None]) -> None:
        self._on_end = on_end
        self._roots: OrderedDict[Hashable, Root] = OrderedDict()
        self._families: dict[Hashable, set[Hashable]] = {}  # the runs that end with each root
        self._around: dict[Hashable, Hashable] = {}  # of a root inside of another's family
        self._lock = threading.Lock()  # guards the three above

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

    def begin(
        self,
        run_id: Hashable,
        parent_id: Hashable | None,
        name: object,
        conversation: Hashable = None,
    ) -> None:
        """Note that a run begins.

        It is a root without a parent, with one that is not known, and with a conversation that
        is not that of its parent's root.
        """
        with self._lock:
            around = self._roots.get(parent_id) if parent_id else None
            root = around
            if root is None or conversation not in (None, root.conversation):
                root = Root(run_id, str(name or "run"), current_caller(), conversation)
            self._roots[run_id] = root
            self._families.setdefault(root.run_id, set()).add(run_id)
            if around is not None and around is not root:
                self._families[around.run_id].add(run_id)
                self._around[run_id] = around.run_id
        if len(self._roots) > _MAX_RUNS:
            self.end(next(iter(self._roots)))

    def end(self, run_id: Hashable) -> None:
        """Note that a run ends; if it is a root, its family does. The second time is ignored."""
        with self._lock:
            ended = self._forget(run_id)
        for root in ended:
            self._on_end(root)

    def _forget(self, run_id: Hashable) -> list[Root]:
        """Remove a run and all that ends with it. Returns the roots among them, itself first."""
        if (root := self._roots.pop(run_id, None)) is None:
            return []
        family_of = root.run_id if root.run_id != run_id else self._around.pop(run_id, None)
        if family_of in self._families:
            self._families[family_of].discard(run_id)
        if root.run_id != run_id:
            return []
        descendants = self._families.pop(run_id) - {run_id}
        return [root, *(one for each in descendants for one in self._forget(each))]
