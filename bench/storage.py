"""Writes and reads per second of stored files, against plain files and plain SQLite.

All in one run over one disk: the numbers are for comparing rows, not machines. "durable" rows
survive a power cut; plain files without fsync do not, and are what that costs.

    python bench/storage.py [--quick]
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import apsw
from _report import arguments, quantile, show, write

from aios_core import Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore

SIZES = (1_000, 100_000)  # bytes: a version in a row, a version in a blob
CONCURRENT = 64  # callers at once, where commits can be shared
CAPTION = (
    "kernel: agent.storage on the caller's loop, access check and audit included. 64 at once share "
    "commits.\nplain files: written aside, synced with their folder, renamed. SQLite: WAL, "
    "synchronous=FULL, one row a commit."
)

Operation = Callable[[int], Awaitable[object]]


async def measured(
    what: tuple[str, str], size: int, number: int, operation: Operation, at_once: int = 1
) -> dict[str, Any]:
    """Run an operation that often, `at_once` at a time."""
    numbers = count()
    took: list[float] = []

    async def caller() -> None:
        while (mine := next(numbers)) < number:
            began = time.perf_counter()
            await operation(mine)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return {
        "system": what[0],
        "operation": what[1],
        "bytes": size,
        "at_once": at_once,
        "per_second": number / (time.perf_counter() - began),
        "p50_ms": 1e3 * quantile(took, 0.5),
        "p99_ms": 1e3 * quantile(took, 0.99),
    }


async def of_kernel(directory: Path, size: int, number: int) -> list[dict[str, Any]]:
    config = KernelConfig.load(environ={}, state={"directory": str(directory / "state")})
    async with Kernel(config, cores=[ScriptedCore("pong")]) as kernel:
        storage = (await kernel.aspawn("writer")).storage
        await storage.awrite("/first", b"")  # opens the state

        async def put(one: int) -> None:
            await storage.awrite(f"/{one}", os.urandom(size))

        async def get(one: int) -> None:
            await storage.aread(f"/{one}")

        return [
            await measured(("kernel", "write, durable"), size, number, put),
            await measured(("kernel", "write, durable"), size, number, put, CONCURRENT),
            await measured(("kernel", "read"), size, number, get),
            await measured(("kernel", "read"), size, number, get, CONCURRENT),
        ]


async def of_files(directory: Path, size: int, number: int) -> list[dict[str, Any]]:
    (directory / "plain").mkdir()
    folder = os.open(directory / "plain", os.O_RDONLY)

    def path(one: int) -> Path:
        return directory / "plain" / str(one)

    async def put(one: int) -> None:
        path(one).write_bytes(os.urandom(size))

    async def put_durably(one: int) -> None:
        part = path(one).with_suffix(".part")
        with part.open("wb") as file:
            file.write(os.urandom(size))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path(one))
        os.fsync(folder)

    async def get(one: int) -> None:
        path(one).read_bytes()

    rows = [
        await measured(("plain files", "write"), size, number, put),
        await measured(("plain files", "write, durable"), size, number, put_durably),
        await measured(("plain files", "read"), size, number, get),
    ]
    os.close(folder)
    return rows


async def of_sqlite(directory: Path, size: int, number: int) -> list[dict[str, Any]]:
    connection = apsw.Connection(str(directory / "plain.db"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE files (path INTEGER PRIMARY KEY, content BLOB)")

    async def put(one: int) -> None:
        values = (one, os.urandom(size))
        connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", values)

    async def get(one: int) -> None:
        connection.execute("SELECT content FROM files WHERE path = ?", (one,)).fetchone()

    rows = [
        await measured(("plain SQLite", "write, durable"), size, number, put),
        await measured(("plain SQLite", "read"), size, number, get),
    ]
    connection.close()
    return rows


def main() -> None:
    number = 100 if arguments(__doc__).quick else 2_000
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        for system in (of_files, of_sqlite, of_kernel):
            with tempfile.TemporaryDirectory(prefix="aios-bench-") as directory:
                rows += asyncio.run(system(Path(directory), size, number))
    columns = {
        "system": "{system}",
        "operation": "{operation}",
        "bytes": "{bytes:,}",
        "at once": "{at_once}",
        "per second": "{per_second:,.0f}",
        "p50": "{p50_ms:.3f} ms",
        "p99": "{p99_ms:.3f} ms",
    }
    show("Stored files", columns, rows, CAPTION)
    write("storage", rows)


if __name__ == "__main__":
    main()
