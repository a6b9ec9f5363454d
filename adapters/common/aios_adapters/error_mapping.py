"""The kernel's errors, where a framework has a kind of its own for them.

A kernel error passes through as it is. Where the framework has a name for the same
thing, on which its retrying or summarising code acts, what is raised is both: caught
by either name, with the facts and message of the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aios_core.errors import KernelError


class ErrorMapping:
    """Map the kernel's error classes to a framework's.

    Args:
        pairs: the kernel's class and the framework's, the most special first. A name of None
            (an older framework that lacks it) is left out.
        facts_of: attributes that the framework's class has besides, for an error that is both.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[type[KernelError], type[Exception] | None]],
        facts_of: Callable[[KernelError], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        self._pairs = tuple((own, theirs) for own, theirs in pairs if theirs is not None)
        self._facts_of = facts_of
        self._made: dict[type[KernelError], type[KernelError] | None] = {}

    @contextmanager
    def as_framework_error(self) -> Iterator[None]:
        """Let kernel errors out of the block under both names."""
        try:
            yield
        except KernelError as exc:
            kind = type(exc)
            if kind not in self._made:
                self._made[kind] = self._join(kind)
            if (joined := self._made[kind]) is None:
                raise
            both = _as(joined, exc)
            both.__dict__.update(self._facts_of(both))
            raise both from exc.__cause__

    def _join(self, kind: type[KernelError]) -> type[KernelError] | None:
        """A class that is both the kernel's `kind` and the framework's name for it, if any."""
        for own, theirs in self._pairs:
            if issubclass(kind, own) and not issubclass(kind, theirs):
                return type(kind.__name__, (kind, theirs), {"__module__": kind.__module__})
        return None


def _as(kind: type[KernelError], error: KernelError) -> KernelError:
    """The same error, with its message and facts, as an instance of a subclass."""
    copy = kind.__new__(kind, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy.with_traceback(error.__traceback__)
