"""Models that no core serves: the kernel's default answers, and that is said once."""

from __future__ import annotations

import sys
from typing import Final

from aios_core.kernel import Kernel
from aios_core.launch.launcher import on_uninstall

_announced: Final[set[str]] = set()


def resolve_model(kernel: Kernel, asked: str | None) -> str | None:
    """The model to ask a kernel for where a program names one of its provider's.

    A name that no core serves becomes None, the kernel's default model. The first time, a line
    on standard error says so: a program that runs unmodified must not mistake who answers.
    """
    if asked is None or asked in kernel.pool.models:
        return asked
    if asked not in _announced:
        _announced.add(asked)
        sys.stderr.write(
            f"aios: no core serves {asked!r}; the kernel's default model answers in its place. "
            f"The cores serve: {', '.join(kernel.pool.models)}\n"
        )
    return None


def reset_announcements() -> None:
    """Say it again, the next time."""
    _announced.clear()


on_uninstall(reset_announcements)
