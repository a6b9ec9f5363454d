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

    Counted roughly, until they could be `suspicious` bytes: pages that are shared then count
    for each process. From there on they are counted exactly, which takes longer.
    """
    sizes = [_sizes(pid) for pid in pids]
    if sum(mapped for mapped, _ in sizes) < suspicious:
        return sum(resident for _, resident in sizes)
    shared: dict[str, int] = {}
    for pid in pids:
        shared.update(_shared(pid))
    return sum(map(_own, pids)) + sum(shared.values())


def _sizes(pid: int) -> tuple[int, int]:
    """Mapped and resident bytes."""
    with suppress(OSError, IndexError, ValueError):
        mapped, resident = Path(f"/proc/{pid}/statm").read_text().split()[:2]
        return int(mapped) * _PAGE, int(resident) * _PAGE
    return 0, 0  # it has ended


def _own(pid: int) -> int:
    """Its part of the pages that are in memory, without shared memory."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        amounts = {line.split()[0]: int(line.split()[1]) << 10 for line in lines[1:]}
        return amounts.get("Pss:", 0) - amounts.get("Pss_Shmem:", 0)
    return 0


def _shared(pid: int) -> dict[str, int]:
    """Anonymous shared memory that it has mapped, by inode.

    All of it counts: pages that no page table mentions any more (MADV_DONTNEED) are still there.
    """
    found: dict[str, int] = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, _, _, _, inode, *name = line.split(maxsplit=5)
            if name and name[0].startswith("/dev/zero"):
                begin, end = (int(bound, 16) for bound in place.split("-"))
                found[inode] = max(found.get(inode, 0), end - begin)
    return found
