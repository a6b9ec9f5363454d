"""A kernel in memory with a few agents, for tests of their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aios_core import Agent, Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.storage.content_store import INLINE_BYTES


@contextmanager
def kernel(directory: Path | str = ":memory:", **storage: Any) -> Iterator[Kernel]:
    """Run a kernel with agents that call no model; check the invariants of files at the end."""
    config = KernelConfig.load(
        environ={},
        state={"directory": str(directory)},
        access={"approver": "allow"},
        storage=storage,
    )
    with Kernel(config, cores=[ScriptedCore("pong")]) as running:
        yield running
        running.check()
        running._loop.run(_check_files(running))


async def _check_files(running: Kernel) -> None:
    state, table, _ = await running._inside.parts.storage._tables.open()
    await state.database.aread(table.check)


def with_labels(agent: Agent, *labels: str) -> None:
    """Give an agent labels, as if it had read data of that origin."""
    agent._process.labels.update(labels)


LARGE = bytes(range(256)) * (INLINE_BYTES // 256) + b"and more"
