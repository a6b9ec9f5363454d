"""Replace the names of models that no core serves by the kernel's default, with one notice."""

from __future__ import annotations

import sys
from typing import Final

from aios_core.kernel import Kernel
from aios_core.launch.launcher import on_uninstall

_announced: Final[set[str]] = set()


def resolve_model(kernel: Kernel, asked: str | None) -> str | None:
    """Return the model to request from a kernel for the model that a program names.

    A name that no core serves becomes None, the kernel's default model. The first time, a line
    on standard error names both: the user of an unmodified program must know which model answers.
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
    """Announce every replaced model again, the next time it is requested."""
    _announced.clear()


on_uninstall(reset_announcements)
