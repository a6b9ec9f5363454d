"""Measure the memory of a process and its descendants from /proc. Blocks for a moment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")  # bytes


def process_tree(pid: int) -> list[int]:
    """Return a process and its descendants; those that start or end meanwhile may be missing."""
    found, at = [pid], 0
    while at < len(found):
        for listing in Path(f"/proc/{found[at]}/task").glob("*/children"):
            with suppress(OSError):
                found.extend(map(int, listing.read_text().split()))
        at += 1
    return found


def memory_of(pids: list[int], suspicious: int) -> int:
    """Return the memory of processes together, in bytes.

    While it is certainly below `suspicious`, the result is an estimate that counts shared pages
    for each process. From there on it is exact, which takes longer.
    """
    sizes = [_sizes(pid) for pid in pids]
    if sum(mapped for mapped, _ in sizes) < suspicious:
        return sum(resident for _, resident in sizes)
    shared: dict[str, int] = {}
    for pid in pids:
        shared.update(_shared(pid))
    return sum(map(_own, pids)) + sum(shared.values())


def _sizes(pid: int) -> tuple[int, int]:
    """Return the mapped and the resident bytes of a process."""
    with suppress(OSError, IndexError, ValueError):
        mapped, resident = Path(f"/proc/{pid}/statm").read_text().split()[:2]
        return int(mapped) * _PAGE, int(resident) * _PAGE
    return 0, 0  # it has ended


def _own(pid: int) -> int:
    """Return a process's proportional share of resident pages, without shared memory."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        amounts = {line.split()[0]: int(line.split()[1]) << 10 for line in lines[1:]}
        return amounts.get("Pss:", 0) - amounts.get("Pss_Shmem:", 0)
    return 0


def _shared(pid: int) -> dict[str, int]:
    """Return the sizes of a process's anonymous shared memory, by inode.

    All mapped bytes count: pages without an entry in a page table (after MADV_DONTNEED) are
    still in memory.
    """
    found: dict[str, int] = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, _, _, _, inode, *name = line.split(maxsplit=5)
            if name and name[0].startswith("/dev/zero"):
                begin, end = (int(bound, 16) for bound in place.split("-"))
                found[inode] = max(found.get(inode, 0), end - begin)
    return found
