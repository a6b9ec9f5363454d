"""Power cuts at random points: all that was acknowledged is there when power is back.

A kill leaves the system's caches alone, a power cut does not: here SQLite runs on a
simulated disk that loses what was not synced, and so do the files of blobs. The same
cuts do lose acknowledged data once a sync is left out, so the harness can detect it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aios_core import private_files
from aios_core.errors import KernelError
from aios_core.state import Database, State, StateOpener

from .layer import Layer, Promises
from .power import Disk, PowerVFS, WatchedFolder

MOST_OPERATIONS = 400  # writes, syncs and removals before a cut


class PoweredOpener(StateOpener):
    """Opens the state on a simulated disk."""

    def __init__(self, directory: Path, vfs: str) -> None:
        super().__init__(directory, lambda: None)
        self._vfs = vfs

    def _open(self) -> State:
        state = State.open(self.directory, vfs=self._vfs)
        try:
            for component, scripts in self._migrations.items():
                state.database.migrate(component, scripts)
        except BaseException:
            with suppress(KernelError):
                state.close()
            raise
        return state


class Machine:
    """A directory on a disk that loses power again and again."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.disk = Disk(seed)
        self.vfs = PowerVFS(f"power-{seed}-{id(self)}", self.disk)
        self.folder = WatchedFolder(self.disk, directory / "blobs")
        self._directory = directory
        self._chance = random.Random(seed)
        self._life = 0

    def survive(self, num_cuts: int) -> list[str]:
        """Cut that often, looking everything over after each cut; the broken promises."""
        everything, lost = Promises(), []
        for _ in range(num_cuts):
            this = Promises()
            self.disk.cut_after(self._chance.randint(1, MOST_OPERATIONS))
            asyncio.run(self._live(lambda line, to=this: to.add(line)))
            everything.newest.update(this.newest)
            self.disk.restart()
            lost += asyncio.run(self._broken(this))
        lost += asyncio.run(self._broken(everything))
        return lost

    async def _live(self, acknowledge: Callable[[str], None]) -> None:
        self._life += 1
        layer = Layer(PoweredOpener(self._directory, self.vfs.name))
        with suppress(KernelError):  # closing raises: it cannot write
            async with layer:
                with suppress(KernelError):
                    await layer.work(self.disk.chance.getrandbits(32), self._life, acknowledge)

    async def _broken(self, promises: Promises) -> list[str]:
        try:
            async with Layer(PoweredOpener(self._directory, self.vfs.name)) as layer:
                return await layer.broken(promises)
        except KernelError as exc:
            return [f"cannot be opened: {exc}"]


@pytest.fixture
def machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    machine = Machine(tmp_path, seed=len(request.node.name))
    monkeypatch.setattr(private_files, "os", machine.folder)
    yield machine
    machine.vfs.unregister()


def test_what_was_acknowledged_survives_a_hundred_power_cuts(machine: Machine) -> None:
    assert machine.survive(100) == []


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_what_was_acknowledged_survives_two_thousand_power_cuts(machine: Machine) -> None:
    assert machine.survive(2_000) == []


def test_commits_that_are_not_synced_are_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test: SQLite's usual setting for WAL does not keep the promise."""
    connect = Database._connect

    def carelessly(database: Database) -> object:
        connection = connect(database)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    monkeypatch.setattr(Database, "_connect", carelessly)

    assert machine.survive(20) != []


@pytest.mark.parametrize("left_out", ["file", "folder"])
def test_blobs_that_are_not_synced_are_lost(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    """The test of the test: a blob needs its content and its name synced."""
    sync = machine.folder.fsync

    def carelessly(descriptor: int) -> None:
        is_folder = Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()
        if is_folder != (left_out == "folder"):
            sync(descriptor)

    monkeypatch.setattr(machine.folder, "fsync", carelessly)

    assert machine.survive(20) != []
