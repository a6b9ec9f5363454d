"""What is said when a disk is full: the same everywhere, with what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def free_space(directory: Path) -> str:
    """What to do."""
    return f"Free space on the disk of {directory}; it goes on by itself then"


def cause(exc: OSError, directory: Path) -> str:
    """Why something in a directory could not be written."""
    return f"the disk is full. {free_space(directory)}" if exc.errno in _FULL else str(exc)
