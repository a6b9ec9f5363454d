"""Error text for a full disk, with a hint how to free space."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_full_hint(directory: Path) -> str:
    """Return the hint for a full disk."""
    return f"Free space on the disk of {directory}; writing continues by itself then"


def describe_os_error(exc: OSError, directory: Path) -> str:
    """Describe why something in a directory could not be written."""
    return f"the disk is full. {disk_full_hint(directory)}" if exc.errno in _FULL else str(exc)
