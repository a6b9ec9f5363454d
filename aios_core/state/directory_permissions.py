"""Make an existing state directory private to its user."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Final

from aios_core.private_files import tighten, tighten_below

log = logging.getLogger(__name__)

# What the kernel makes below a state directory: files by the beginning of their names.
_FILES: Final = ("lock", "state.db", "audit.head", ".audit.head")
_FOLDERS: Final = ("audit", "blobs", "chroma", "set-aside", "unaccounted")
_SWEPT: Final = "blobs"  # its files are looked at one by one when it opens anyway
_OWN_RULES: Final = "approvals"  # refused if others could write there, see `access.approvals.files`


def tighten_directory(directory: Path) -> None:
    """Make all of it private. A directory that holds other things too keeps its own mode."""
    strangers = []
    for entry in directory.iterdir():
        if entry.name in _FOLDERS:
            (tighten if entry.name == _SWEPT else tighten_below)(entry)
        elif entry.name.startswith(_FILES):
            tighten(entry)
        elif entry.name != _OWN_RULES:
            strangers.append(entry.name)
    mode = directory.stat().st_mode
    if not strangers and not mode & stat.S_ISVTX:
        tighten(directory)
    elif mode & (stat.S_IWGRP | stat.S_IWOTH):
        log.warning(
            "other users may write to the state directory %s, which holds other files too: give "
            "the kernel a directory of its own",
            directory,
        )
