"""End a command soon after Ctrl-C, with one line, even if its threads are busy."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

INTERRUPTED: Final = 130  # the exit status of a program that SIGINT ended
SOON_S: Final = 3.0  # to close kernels and connections; a model that is being loaded takes longer
_AGAIN_S: Final = 0.05  # until an interruption that Python swallowed is tried again

_is_reported = False
_owns_process = False  # false where another program calls the command line as a function


def report_interruption() -> int:
    """Print that the command was interrupted, once a process. Returns the exit status."""
    global _is_reported  # noqa: PLW0603
    if not (_is_reported and _owns_process):
        _is_reported = True
        print("aios: interrupted", file=sys.stderr)
    return INTERRUPTED


def own_process() -> None:
    """Declare that the process runs this command and nothing else, and may be ended."""
    global _owns_process  # noqa: PLW0603
    _owns_process = True


def end_soon(within_s: float = SOON_S) -> None:
    """End the command's own process after some seconds, if it has not ended by then."""
    if not _owns_process:
        return
    watchdog = threading.Timer(within_s, _end)
    watchdog.daemon = True
    watchdog.start()


@contextmanager
def prompt_interruption(within_s: float | None) -> Iterator[None]:
    """Within the block, Ctrl-C is never lost.

    Args:
        within_s: seconds from a SIGINT to the end of the process; None: as long as it takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGINT)
    sys.unraisablehook = _raise_again_before(hook)
    if within_s is not None and handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _ending(within_s))
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def _raise_again_before(hook: Any) -> Any:
    """A hook for exceptions where none can be raised: in finalizers, and in import's callbacks."""

    def unraisable(arguments: sys.UnraisableHookArgs) -> None:
        if arguments.exc_type is not KeyboardInterrupt:
            hook(arguments)
            return
        again = threading.Timer(_AGAIN_S, _thread.interrupt_main)
        again.daemon = True
        again.start()

    return unraisable


def _ending(within_s: float) -> Any:
    def interrupt(signum: int, frame: FrameType | None) -> None:
        end_soon(within_s)
        signal.default_int_handler(signum, frame)

    return interrupt


def _end() -> None:
    report_interruption()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(INTERRUPTED)
