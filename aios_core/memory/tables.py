"""The tables of memory in the state directory, opened at first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aios_core.memory.block_vectors import BlockVectorTable
from aios_core.memory.blocks import BlockLimits, BlockTable
from aios_core.memory.codec import Codec
from aios_core.memory.kv import KeyValueTable
from aios_core.memory.quotas import Quotas
from aios_core.memory.schema import COMPONENT, SCHEMA
from aios_core.memory.threads import ThreadTable
from aios_core.state import State, StateOpener


@dataclass(frozen=True, slots=True)
class MemoryTables:
    """The open state, and memory's tables in it."""

    state: State
    blocks: BlockTable
    threads: ThreadTable
    kv: KeyValueTable
    vectors: BlockVectorTable


class LazyTables:
    """Opens memory's tables at the first request.

    Args:
        state: opens the state directory.
        quotas: how much each agent and group may keep.
        limits: the sizes of pages and of what is pinned.
        wall: returns seconds since 1970, for stored times.
    """

    def __init__(
        self, state: StateOpener, quotas: Quotas, limits: BlockLimits, wall: Callable[[], float]
    ) -> None:
        state.add_migrations(COMPONENT, SCHEMA)
        self._state, self._limits, self._wall = state, limits, wall
        self.quotas = quotas
        self._tables: MemoryTables | None = None

    async def open(self) -> MemoryTables:
        """Return the tables; open the state if necessary. Raises `StateError`."""
        if self._tables is None:
            state = await self._state.open()
            codec = Codec(state.cipher)
            blocks = BlockTable(codec, self.quotas, self._limits, self._wall)
            self._tables = MemoryTables(
                state,
                blocks,
                ThreadTable(codec, self.quotas, self._wall),
                KeyValueTable(codec, self.quotas, self._wall),
                BlockVectorTable(codec, blocks),
            )
        return self._tables
