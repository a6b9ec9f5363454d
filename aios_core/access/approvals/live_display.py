"""Pause a program's live display while a person is asked something.

rich draws spinners, progress bars and growing answers in place: it moves the cursor up and
erases what is below, on every change, and passes on what is printed meanwhile. A question
among that would be redrawn over. `paused_display` finishes the picture, leaves the terminal
alone for as long as the question is there, and draws below it afterwards.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

log = logging.getLogger(__name__)


def stream_behind(stream: TextIO | None) -> TextIO | None:
    """Return the stream that a live display has put itself in front of; another one as it is."""
    behind = getattr(stream, "rich_proxied_file", None)
    return stream if behind is None else stream_behind(behind)


@contextmanager
def paused_display() -> Iterator[None]:
    """Pause the live displays of this process within the block."""
    with ExitStack() as stack:
        for live in _displays():
            pause = _Pause(live)
            pause.begin()
            stack.callback(pause.end)
        yield


def _displays() -> list[Any]:
    """The live displays that have taken over the standard streams."""
    consoles = {
        id(console): console
        for stream in (sys.stdout, sys.stderr)
        if (console := getattr(stream, "_FileProxy__console", None)) is not None
    }
    return [live for console in consoles.values() for live in _lives_of(console)]


def _lives_of(console: Any) -> list[Any]:
    """The outermost live display of a console, which draws those within it; [] without one."""
    several = getattr(console, "_live_stack", None)  # rich 14.1 and later
    outermost = several[0] if several else getattr(console, "_live", None)
    return [] if outermost is None or len(several or ()) > 1 else [outermost]


class _Pause:
    """One live display that is stopped for a while, and may be ended by its owner meanwhile.

    `_lock` guards `_is_over` and `_was_ended`.
    """

    def __init__(self, live: Any) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._is_over = False
        self._was_ended = False

    def begin(self) -> None:
        """Finish the picture, and give the terminal and the standard streams back."""
        self._live.stop()
        self._live.stop = self._stop

    def end(self) -> None:
        """Draw again, from where the cursor is now."""
        with self._lock:
            self._is_over = True
            del self._live.stop
        try:
            # Without a size it does not erase as many lines as the former picture had.
            self._live._live_render._shape = None  # noqa: SLF001 - rich has no other way
            self._live.start(refresh=True)
            if self._was_ended:
                self._live.stop()
        except Exception:  # its owner's renderable is foreign code
            log.exception("a live display was not resumed")

    def _stop(self) -> None:
        """Called by the owner in place of `Live.stop`."""
        with self._lock:
            self._was_ended = True
            if not self._is_over:
                return
        self._live.stop()
