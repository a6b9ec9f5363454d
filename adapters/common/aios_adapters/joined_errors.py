"""Make error classes that are the kernel's and another library's at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aios_core.errors import KernelError

_made: dict[tuple[type, type], type[Exception]] = {}


def join_errors(
    error: KernelError, theirs: Exception, facts: Mapping[str, Any] | None = None
) -> Exception:
    """Return an error that is an instance of both classes, with the attributes of both.

    Args:
        error: the kernel's error.
        theirs: the other library's error for the same reason.
        facts: attributes of the class, for those that the library sets on its instances where the
            kernel has properties.
    """
    joined = _join(type(error), type(theirs), facts or {})
    copy = joined.__new__(joined, *error.args)
    copy.args = error.args
    copy.__dict__.update({**theirs.__dict__, **error.__dict__})
    return copy.with_traceback(error.__traceback__)


def _join(
    ours: type[KernelError], theirs: type[Exception], facts: Mapping[str, Any]
) -> type[Exception]:
    if (ours, theirs) not in _made:
        body = {"__module__": ours.__module__, **facts}
        _made[ours, theirs] = type(ours.__name__, (ours, theirs), body)
    return _made[ours, theirs]
