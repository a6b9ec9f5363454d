"""Find the root of each run of a framework, and report when a root has ended.

Frameworks with callbacks or spans (LangChain, LlamaIndex) report the id of each run and
of its parent. A root and its descendants are one agent's work. A run inside of another
run that has a conversation of its own is a root too, and ends at the latest with the
enclosing root.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from aios_adapters.callers import Caller, current_caller
from aios_adapters.finalizer_lock import FinalizerLock

_MAX_RUNS: Final = 100_000  # a run that never reports its end would stay forever


@dataclass(frozen=True, slots=True)
class RunRoot:
    """The outermost run of its conversation that a run is a part of."""

    run_id: Hashable
    name: str
    caller: Caller  # the task or thread that started it
    conversation: Hashable = None  # its conversation, such as a thread's id, if it has one


class RunTree:
    """The runs in progress with their roots; reports when a root has ended.

    Invariant: a root that has ended has no descendants here. Used from any thread; the lock is
    not held while `on_end` is called.

    Args:
        on_end: called with each root that has ended; by a finalizer too, so it must not wait.
        waits_for_descendants: whether a root ends only when all its descendants have ended
            too. For frameworks that always report an end. Otherwise the end of a root ends its
            descendants, since a cancelled run may never report its end.
    """

    def __init__(
        self, on_end: Callable[[RunRoot], None], *, waits_for_descendants: bool = False
    ) -> None:
        self._on_end = on_end
        self._is_patient = waits_for_descendants
        self._roots: OrderedDict[Hashable, RunRoot] = OrderedDict()
        self._members: dict[Hashable, set[Hashable]] = {}  # by root: the runs that end with it
        self._enclosing: dict[Hashable, Hashable] = {}  # by nested root: the root around it
        self._returned: set[Hashable] = set()  # roots that have returned and await descendants
        self._lock = FinalizerLock()  # guards the four above

    @property
    def num_runs(self) -> int:
        """Number of runs in progress."""
        return len(self._roots)

    def root_of(self, run_id: Hashable) -> RunRoot | None:
        """Return the root of a run in progress; None for an unknown run."""
        return self._roots.get(run_id)

    def is_live(self, run_id: Hashable) -> bool:
        """Return whether the run is still in progress."""
        return run_id in self._roots

    def latest_in(self, conversation: Hashable) -> RunRoot | None:
        """Return the root in progress that started last in a conversation, or None."""
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
        """Record that a run has started.

        The run is a root if it has no parent, if its parent is unknown, or if its conversation
        differs from that of its parent's root.
        """
        with self._lock:
            around = self._roots.get(parent_id) if parent_id else None
            root = around
            if root is None or conversation not in (None, root.conversation):
                root = RunRoot(run_id, str(name or "run"), current_caller(), conversation)
            self._roots[run_id] = root
            self._members.setdefault(root.run_id, set()).add(run_id)
            if around is not None and around is not root:
                self._members[around.run_id].add(run_id)
                self._enclosing[run_id] = around.run_id
        if len(self._roots) > _MAX_RUNS:
            self._report(self._forget, next(iter(self._roots)))

    def end(self, run_id: Hashable) -> None:
        """Record that a run has ended, with the runs that end with it. Idempotent."""
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
        """Record that a run has ended without waiting for a lock; for finalizers."""
        remove = self._leave if self._is_patient else self._forget
        self._lock.run_soon(lambda: partial(self._notify, remove(run_id)))

    def _notify(self, ended: list[RunRoot]) -> None:
        for root in ended:
            self._on_end(root)

    def _leave(self, run_id: Hashable) -> list[RunRoot]:
        """Remove a run, and its root if that has returned and has no other run left."""
        if (root := self._roots.get(run_id)) is None:
            return []
        if root.run_id == run_id:
            self._returned.add(run_id)
        else:
            self._forget(run_id)
        return self._remove_finished(root.run_id)

    def _remove_finished(self, root_id: Hashable) -> list[RunRoot]:
        if root_id not in self._returned or self._members[root_id] - {root_id}:
            return []
        around = self._enclosing.get(root_id)
        return [*self._forget(root_id), *self._remove_finished(around)]

    def _forget(self, run_id: Hashable) -> list[RunRoot]:
        """Remove a run and the runs that end with it. Returns their roots, its own first."""
        if (root := self._roots.pop(run_id, None)) is None:
            return []
        self._returned.discard(run_id)
        member_of = root.run_id if root.run_id != run_id else self._enclosing.pop(run_id, None)
        if member_of in self._members:
            self._members[member_of].discard(run_id)
        if root.run_id != run_id:
            return []
        descendants = self._members.pop(run_id) - {run_id}
        return [root, *(one for each in descendants for one in self._forget(each))]


class RunHold:
    """A claim that keeps a run open until it is released or collected."""

    __slots__ = ("_tree", "key")

    def __init__(self, tree: RunTree) -> None:
        self._tree = tree
        self.key = object()

    def release(self) -> None:
        """Let the run end. Idempotent."""
        self._tree.end(self.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self._tree.end_soon(self.key)
