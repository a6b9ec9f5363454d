"""The whole state layer as one object that writes, prints acknowledgements, and is checked.

    raw       rows of a table of the test's own, straight through `Database`
    files     through the storage manager: small ones (rows) and large ones (blobs), appended,
              rewritten beyond their retention so that blobs are removed, deleted, purged
    memory    through the memory manager, with so little room that pages are swapped out

A promise is the content of an acknowledgement: "FAMILY KEY VERSION DIGEST". Later
acknowledgements of a key replace earlier ones; what is found must be the newest
acknowledged state, or one that was begun after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aios_core.config import MemoryConfig, StorageConfig
from aios_core.errors import NoSuchObject
from aios_core.memory import MemoryManager
from aios_core.memory.requests import MemoryRead, MemoryWrite
from aios_core.process import AgentProcess, ProcessTable
from aios_core.state import Connection, StateOpener
from aios_core.storage import StorageManager
from aios_core.storage.requests import (
    FileAppend,
    FileDelete,
    FileHistory,
    FilePurge,
    FileRead,
    FileStat,
    FileWrite,
)

RAW = ("CREATE TABLE raw (key TEXT PRIMARY KEY, version INTEGER NOT NULL, digest TEXT NOT NULL)",)
MEMORY = MemoryConfig(resident_bytes=64 * 1024)
STORAGE = StorageConfig(max_versions=3)

Acknowledge = Callable[[str], None]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(slots=True)
class Promises:
    """The acknowledged promises: by family and key, the newest version and its digest."""

    newest: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def add(self, line: str) -> None:
        family, key, version, told = line.split()
        self.newest[family, key] = (int(version), told)

    def __len__(self) -> int:
        return len(self.newest)


class Layer:
    """One life of the state layer over a directory. Enter it on an event loop."""

    def __init__(self, opener: StateOpener) -> None:
        self.opener = opener
        self.opener.add_migrations("raw", RAW)
        self.storage = StorageManager(self.opener, STORAGE)
        self.memory = MemoryManager(self.opener, MEMORY, now=asyncio.get_running_loop().time)
        self.agent: AgentProcess = ProcessTable().spawn("agent", now=0.0)

    @classmethod
    def over(cls, directory: Path) -> Self:
        return cls(StateOpener(directory, lambda: None))

    async def __aenter__(self) -> Self:
        await self.storage.start()
        await self.memory.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.memory.close()
        await self.storage.close()
        await self.opener.close()

    # --- writing -----------------------------------------------------------------------------

    async def work(self, seed: int, life: int, acknowledge: Acknowledge) -> None:
        """Write without end, several at a time, and print what was acknowledged."""
        chance = random.Random(f"{seed}/{life}")
        state = await self.opener.open()

        async def raw() -> None:
            for version in range(1_000_000):
                key, told = f"{life}.{version % 7}", digest(chance.randbytes(8))
                await state.database.awrite(raw_write(key, version, told))
                acknowledge(f"raw {key} {version} {told}")

        async def files(name: str, size: int) -> None:
            for number in range(1_000_000):
                path = f"/{name}/{number % 3}"
                data = chance.randbytes(chance.randint(size // 2, size))
                made = await self.storage.perform(self.agent, FileWrite(path, data))
                acknowledge(f"file {path} {made.version} {digest(data)}")
                if number % 5 == 4:
                    more = chance.randbytes(100)
                    made = await self.storage.perform(self.agent, FileAppend(path, more))
                    acknowledge(f"file {path} {made.version} {digest(data + more)}")
                if number % 11 == 10:
                    made = await self.storage.perform(self.agent, FileDelete(path))
                    acknowledge(f"file {path} {made.version} deleted")
                if number % 22 == 21:
                    await self.storage.perform(self.agent, FilePurge(path))
                    acknowledge(f"file {path} 0 purged")

        async def memory() -> None:
            for version in range(1_000_000):
                block = f"{life}.{version % 5}"
                data = version.to_bytes(4, "big") + chance.randbytes(chance.randint(10, 20_000))
                await self.memory.perform(self.agent, MemoryWrite(block, data))
                acknowledge(f"memory {block} {version} {digest(data)}")

        await asyncio.gather(raw(), files("small", 2_000), files("large", 60_000), memory())

    # --- looking over ------------------------------------------------------------------------

    async def broken(self, promises: Promises) -> list[str]:
        """Return the broken promises; none is good. Also checks all files."""
        state = await self.opener.open()
        _, table, _ = await self.storage._tables.open()
        await state.database.aread(table.check)
        lost = []
        for (family, key), (version, told) in promises.newest.items():
            found = await getattr(self, f"_{family}")(key)
            if not _is_kept(found, version, told):
                lost.append(f"{family} {key}: promised {version} {told}, found {found}")
        return lost

    async def _raw(self, key: str) -> tuple[int, str]:
        state = await self.opener.open()
        row = await state.database.aread(
            lambda c: c.execute("SELECT version, digest FROM raw WHERE key = ?", (key,)).fetchone()
        )
        return (row[0], row[1]) if row else (-1, "missing")

    async def _file(self, path: str) -> tuple[int, str]:
        """Reads every version, so that each blob that is needed is looked at."""
        try:
            stat = _value(await self.storage.perform(self.agent, FileStat(path)))
        except NoSuchObject:
            return (0, "purged")
        told = "deleted"
        for made in _value(await self.storage.perform(self.agent, FileHistory(path))):
            if made.change == "delete":
                continue
            request = FileRead(path, version=made.version)
            data = _value(await self.storage.perform(self.agent, request)).data
            if made.version == stat.version:
                told = digest(data)
        return stat.version, told

    async def _memory(self, block: str) -> tuple[int, str]:
        try:
            data = _value(await self.memory.perform(self.agent, MemoryRead(block)))
        except NoSuchObject:
            return (-1, "missing")
        return int.from_bytes(data[:4], "big"), digest(data)


def raw_write(key: str, version: int, told: str) -> Callable[[Connection], object]:
    return lambda c: c.execute("INSERT OR REPLACE INTO raw VALUES (?, ?, ?)", (key, version, told))


def _value(answer: object) -> object:
    return getattr(answer, "value", answer)


def _is_kept(found: tuple[int, str], version: int, told: str) -> bool:
    """A later version was begun and not acknowledged, or a purge was; an earlier one is a loss."""
    if found[0] == version:
        return found[1] == told
    if found[1] == "purged":
        return told == "deleted"
    return found[0] > version or told == "purged"
