"""Record what a request waits for, for the error if its deadline passes.

Any part of the kernel that lets a request wait states for what:

    with doing("waiting for a slot of tool 'scan'"):
        await ready
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Doing:
    """The reason why one request waits, as text for people; empty if it is unknown."""

    text: str = ""


_current: ContextVar[Doing | None] = ContextVar("doing", default=None)


@contextmanager
def noting(request: Doing) -> Iterator[None]:
    """Make `doing` apply to this request within the block."""
    token = _current.set(request)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def doing(text: str) -> Iterator[None]:
    """State what the current request is doing, within the block."""
    request = _current.get()
    if request is None:
        yield
        return
    before, request.text = request.text, text
    try:
        yield
    finally:
        request.text = before
