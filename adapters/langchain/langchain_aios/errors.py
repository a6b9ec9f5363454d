"""The kernel's errors, where LangChain has a kind of its own for them.

A kernel error passes through as it is. Where LangChain has a name for the same
thing (`ContextOverflowError`, on which its summarising middleware acts, or
`ModelError` with `is_retryable`, on which its retrying middleware does), what is
raised is both: caught by either name, with the facts and message of the kernel's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

from langchain_core import exceptions as theirs

from aios_core import errors as ours

# The most special first. Names that an older langchain-core lacks are left out.
_SAME: Final = (
    (ours.ContextOverflow, "ContextOverflowError"),
    (ours.NoSuchObject, "ModelNotFoundError"),
    (ours.InvalidRequest, "ModelInvalidRequestError"),
    (ours.RateLimited, "ModelRateLimitError"),
    (ours.Overloaded, "ModelRateLimitError"),
    (ours.CoreUnavailable, "ModelConnectionError"),
    (ours.AccessDenied, "ModelPermissionDeniedError"),
    (ours.DeadlineExceeded, "ModelTimeoutError"),
)


@contextmanager
def translated() -> Iterator[None]:
    """Let kernel errors out of the block under both names."""
    try:
        yield
    except ours.KernelError as exc:
        if (both := _both(type(exc))) is None:  # type: ignore[arg-type] # classes are hashable
            raise
        raise _as(both, exc) from exc.__cause__


@cache
def _both(kind: type[ours.KernelError]) -> type[ours.KernelError] | None:
    """A class that is both the kernel's `kind` and LangChain's name for it; None if it has none."""
    for own, name in _SAME:
        other = getattr(theirs, name, None)
        if issubclass(kind, own) and other is not None and not issubclass(kind, other):
            return type(kind.__name__, (kind, other), {"__module__": kind.__module__})
    return None


def _as(kind: type[ours.KernelError], error: ours.KernelError) -> ours.KernelError:
    """The same error, with its message and facts, as an instance of a subclass."""
    copy = kind.__new__(kind, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy.with_traceback(error.__traceback__)
