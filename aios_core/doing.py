"""What a request is busy with, for the error of one that is late.

Whoever lets a request wait says for what, wherever in the kernel that is:

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
    """What one request is busy with; empty: nothing in particular."""

    text: str = ""


_current: ContextVar[Doing | None] = ContextVar("doing", default=None)


@contextmanager
def noting(request: Doing) -> Iterator[None]:
    """Let `doing` be about this request meanwhile."""
    token = _current.set(request)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def doing(text: str) -> Iterator[None]:
    """Say what the present request is busy with, if there is one."""
    request = _current.get()
    if request is None:
        yield
        return
    before, request.text = request.text, text
    try:
        yield
    finally:
        request.text = before
