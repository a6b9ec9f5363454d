"""Runs that know only their parent: which root each belongs to, and when that ends.

Frameworks with callbacks or spans (LangChain, LlamaIndex) tell of each run its id
and its parent's. A root with all that it starts is one agent's work. A run inside of
another that belongs to a conversation of its own is a root too, and ends at the
latest with the one around it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from aios_adapters.callers import Caller, current_caller
from aios_adapters.finalizer_lock import FinalizerLock

_MAX_RUNS: Final = 100_000  # runs whose end was never told would stay for ever


@dataclass(frozen=True, slots=True)
class RunRoot:
    """The outermost run of its conversation that a run is a part of."""

    run_id: Hashable
    name: str
    caller: Caller  # the task or thread that began it
    conversation: Hashable = None  # that it said it belongs to, such as a thread's id


class RunTree:
    """The root of every run in progress; reports when a root is over.

    Invariant: a root that is over has no descendants here. Used from any thread; the lock is
    not held while `on_end` is called.

    Args:
        on_end: called with each root that is over; by a finalizer too, so it must not wait.
        waits_for_descendants: whether a root is over only when all its descendants have ended
            too. For frameworks that always report an end. Otherwise a root takes its descendants
            with it, since a cancelled run may end without a word.
    """

    def __init__(
        self, on_end: Callable[[RunRoot], None], *, waits_for_descendants: bool = False
    ) -> None:
        self._on_end = on_end
        self._is_patient = waits_for_descendants
        self._roots: OrderedDict[Hashable, RunRoot] = OrderedDict()
        self._families: dict[Hashable, set[Hashable]] = {}  # the runs that end with each root
        self._around: dict[Hashable, Hashable] = {}  # of a root inside of another's family
        self._returned: set[Hashable] = set()  # roots that have ended, and wait for descendants
        self._lock = FinalizerLock()  # guards the four above

    @property
    def num_runs(self) -> int:
        """How many runs are in progress."""
        return len(self._roots)

    def root_of(self, run_id: Hashable) -> RunRoot | None:
        """The root of a run in progress; None for a run that was never reported."""
        return self._roots.get(run_id)

    def is_live(self, run_id: Hashable) -> bool:
        """Return whether the run is still in progress."""
        return run_id in self._roots

    def latest_in(self, conversation: Hashable) -> RunRoot | None:
        """The root in progress that began last in a conversation."""
        with self._lock:
            roots = [root for run_id, root in self._roots.items() if run_id == root.run_id]
        return next((r for r in reversed(roots) if r.conversation == conversation), None)

    def begin(
        self,
        run_id: Hashable,
        parent_id: Hashable | None,
        name: object,
        conversation: Hashable = None,
    ) -> None:
        """Record that a run begins.

        It is a root without a parent, with one that is not known, and with a conversation that
        is not that of its parent's root.
        """
        with self._lock:
            around = self._roots.get(parent_id) if parent_id else None
            root = around
            if root is None or conversation not in (None, root.conversation):
                root = RunRoot(run_id, str(name or "run"), current_caller(), conversation)
            self._roots[run_id] = root
            self._families.setdefault(root.run_id, set()).add(run_id)
            if around is not None and around is not root:
                self._families[around.run_id].add(run_id)
                self._around[run_id] = around.run_id
        if len(self._roots) > _MAX_RUNS:
            self._report(self._forget, next(iter(self._roots)))

    def end(self, run_id: Hashable) -> None:
        """Record that a run ends, and what ends with it. The second time is ignored."""
        self._report(self._leave if self._is_patient else self._forget, run_id)

    def hold(self, run_id: Hashable | None) -> RunHold:
        """Keep the root of a run open, for a stream that is read after the run has returned."""
        hold = RunHold(self)
        if run_id is not None and self.is_live(run_id):
            self.begin(hold.key, run_id, "stream")
        return hold

    def _report(self, remove: Callable[[Hashable], list[RunRoot]], run_id: Hashable) -> None:
        with self._lock:
            ended = remove(run_id)
        self._notify(ended)

    def end_soon(self, run_id: Hashable) -> None:
        """Record that a run ends, without waiting for another thread: for finalizers."""
        remove = self._leave if self._is_patient else self._forget
        self._lock.run_soon(lambda: partial(self._notify, remove(run_id)))

    def _notify(self, ended: list[RunRoot]) -> None:
        for root in ended:
            self._on_end(root)

    def _leave(self, run_id: Hashable) -> list[RunRoot]:
        """Remove a run, and its root if that has ended and nothing else of it is left."""
        if (root := self._roots.get(run_id)) is None:
            return []
        if root.run_id == run_id:
            self._returned.add(run_id)
        else:
            self._forget(run_id)
        return self._settle(root.run_id)

    def _settle(self, root_id: Hashable) -> list[RunRoot]:
        if root_id not in self._returned or self._families[root_id] - {root_id}:
            return []
        around = self._around.get(root_id)
        return [*self._forget(root_id), *self._settle(around)]

    def _forget(self, run_id: Hashable) -> list[RunRoot]:
        """Remove a run and all that ends with it. Returns the roots among them, itself first."""
        if (root := self._roots.pop(run_id, None)) is None:
            return []
        self._returned.discard(run_id)
        family_of = root.run_id if root.run_id != run_id else self._around.pop(run_id, None)
        if family_of in self._families:
            self._families[family_of].discard(run_id)
        if root.run_id != run_id:
            return []
        descendants = self._families.pop(run_id) - {run_id}
        return [root, *(one for each in descendants for one in self._forget(each))]


class RunHold:
    """Keeps a run open until it is released, at the latest when it is collected."""

    __slots__ = ("_tree", "key")

    def __init__(self, tree: RunTree) -> None:
        self._tree = tree
        self.key = object()

    def release(self) -> None:
        """Let the run be over. Idempotent."""
        self._tree.end(self.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self._tree.end_soon(self.key)
