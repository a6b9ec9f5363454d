"""Give each notice to the user of a program once: through logging and on the terminal.

A program that was not written for the kernel may have no logging, or log to a file. Under
`aios run`, a notice is always a line on standard error too.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Hashable
from typing import Final

from aios_core.fork_safety import free_after_fork

_lock = free_after_fork(threading.Lock())  # guards _given
_given: Final[set[Hashable]] = set()
_is_on_terminal = False


def give_notice(log: logging.Logger, key: Hashable, text: str) -> None:
    """Give a warning, unless one was given under this key before."""
    with _lock:
        if key in _given:
            return
        _given.add(key)
    if not _is_on_terminal:
        log.warning("%s", text)
        return
    if log.hasHandlers():  # without one, Python would print a second line on standard error
        log.warning("%s", text)
    sys.stderr.write(f"aios: {text}\n")


def show_notices(is_shown: bool = True) -> None:
    """Start or stop writing notices to standard error too."""
    global _is_on_terminal  # noqa: PLW0603 - one switch of the process, set by `aios run`
    _is_on_terminal = is_shown


def forget_notices() -> None:
    """Allow every notice to be given again."""
    with _lock:
        _given.clear()
