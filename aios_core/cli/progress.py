"""Show what a command is busy with, to a person who waits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(step: str) -> Iterator[Callable[[str], None]]:
    """Show on standard error, while the block runs, what it is busy with.

    Yields a function that takes the next step. Where standard error is not a terminal, nothing
    is shown.
    """
    if not sys.stderr.isatty():
        yield lambda _step: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.markup import escape  # noqa: PLC0415

    with Console(stderr=True).status(f"{escape(step)} ...") as status:
        yield lambda following: status.update(f"{escape(following)} ...")
