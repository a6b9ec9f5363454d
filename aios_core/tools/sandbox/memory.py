"""How much memory the processes below one take together, from /proc. Blocks for a moment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")  # bytes


def family(pid: int) -> list[int]:
    """A process and all its descendants. Who begins or ends meanwhile may be missed."""
    found, at = [pid], 0
    while at < len(found):
        for listing in Path(f"/proc/{found[at]}/task").glob("*/children"):
            with suppress(OSError):
                found.extend(map(int, listing.read_text().split()))
        at += 1
    return found


def memory_of(pids: list[int], suspicious: int) -> int:
    """Bytes of the processes together.

    Pages that they share count for each of them; from `suspicious` bytes on they are
    counted again exactly, which takes longer.
    """
    rough = sum(map(_resident, pids))
    return rough if rough < suspicious else sum(map(_proportional, pids))


def _resident(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0  # it has ended


def _proportional(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
