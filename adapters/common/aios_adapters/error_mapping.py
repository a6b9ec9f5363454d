"""Raise the kernel's errors under a framework's names as well.

A kernel error passes unchanged, unless the framework has a class for that error, on which its
retrying or summarizing code acts. Then the raised error is an instance of both: it is caught
under either name, with the attributes and message of the kernel's error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aios_core.errors import KernelError


class ErrorMapping:
    """A map from the kernel's error classes to a framework's.

    Args:
        pairs: the kernel's class and the framework's, the most specific first. A pair with None
            (an older framework that lacks the class) is left out.
        facts_of: returns additional attributes that the framework's class has, from the error.
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
        """Raise kernel errors that leave the block under both names."""
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
        """Return a class derived from the kernel's `kind` and the framework's class, if any."""
        for own, theirs in self._pairs:
            if issubclass(kind, own) and not issubclass(kind, theirs):
                return type(kind.__name__, (kind, theirs), {"__module__": kind.__module__})
        return None


def _as(kind: type[KernelError], error: KernelError) -> KernelError:
    """Return a copy of an error, with its message and attributes, as a subclass's instance."""
    copy = kind.__new__(kind, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy.with_traceback(error.__traceback__)
