"""Show errors at a terminal: one line, and what to do next."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from aios_core.distribution import install_missing
from aios_core.errors import ConfigError, KernelError, StateError
from aios_core.redaction import visible

_MAX_LINKED: Final = 100  # exceptions that are looked at behind one


def is_debugging() -> bool:
    """Return whether AIOS_DEBUG asks for tracebacks."""
    return os.environ.get("AIOS_DEBUG", "") not in ("", "0")


def explain(exc: Exception) -> int | None:
    """Print in one line why a command failed. Returns the exit status; None: that is not known."""
    if isinstance(exc, KernelError):
        return report(exc)
    if isinstance(exc, ModuleNotFoundError) and exc.name and not exc.name.startswith("aios_core"):
        library = exc.name.partition(".")[0]
        print(
            f"aios: the library {library!r} is missing; install it with: "
            f"{install_missing(library)}",
            file=sys.stderr,
        )
        return 1
    return None


def setup_failure(exc: BaseException) -> KernelError | None:
    """Return the error of the configuration, the start or the state that is behind an exception.

    If a script fails for such a reason, its traceback does not help. Causes, contexts and the
    members of exception groups are searched. None: the script itself failed.
    """
    return next((linked for linked in _linked(exc) if is_setup_failure(linked)), None)


def is_setup_failure(exc: object) -> bool:
    """Return whether a kernel failed to be configured, to start, or to open its state."""
    return isinstance(exc, ConfigError | StateError) or (
        isinstance(exc, KernelError) and exc.is_startup
    )


def report(error: KernelError, *, place: str = "") -> int:
    """Print an error in one line, with the line of the script if there is one. Returns 1."""
    next_step = " (next: aios doctor)" if is_setup_failure(error) else ""
    _print(f"{f'{place}: ' if place else ''}{_in_one_line(error)}{next_step}")
    return 1


def report_all(errors: Sequence[KernelError]) -> int:
    """Print errors in one line each, the next step with the last one. Returns 1."""
    for error in errors[:-1]:
        _print(_in_one_line(error))
    return report(errors[-1])


def _in_one_line(error: KernelError) -> str:
    return " ".join(visible(line).strip() for line in str(error).splitlines() if line.strip())


def _print(line: str) -> None:
    print(f"aios: {line}", file=sys.stderr)


def place_of(traceback: TracebackType | None, file: str) -> str:
    """Return the last line of a file on a traceback, as "script.py:12"; "" if there is none."""
    found = ""
    while traceback:
        if traceback.tb_frame.f_code.co_filename == file:
            found = f"{Path(file).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def _linked(exc: BaseException) -> Iterator[KernelError]:
    """The kernel errors behind an exception, itself first."""
    waiting: deque[BaseException | None] = deque([exc])
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_LINKED:
        current = waiting.popleft()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, KernelError):
            yield current
        if isinstance(current, BaseExceptionGroup):
            waiting += current.exceptions
        waiting += [current.__cause__, current.__context__]
