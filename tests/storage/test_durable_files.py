"""Files outlive their kernel, and are encrypted on the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import (
    StateError,
)
from aios_core.storage import Storage
from aios_core.storage.content_store import INLINE_BYTES

from .rig import LARGE, kernel


class TestRestarts:
    def test_files_survive_a_restart_of_the_kernel(self, tmp_path: Path) -> None:
        with kernel(tmp_path) as running:
            running.spawn("alice").storage.write("a", LARGE)
        with kernel(tmp_path) as running:
            assert running.spawn("alice").storage.read("a") == LARGE

    async def test_a_write_whose_caller_goes_away_is_finished(self, files: Storage) -> None:
        task = asyncio.create_task(files.awrite("a", LARGE))
        async with files.awatch(after=0, quiet_s=30) as watch:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await files.awrite("b", "x")
            assert (await anext(watch)).path in {"/a", "/b"}
        assert all(f.size in (len(LARGE), 1) for f in await files.alist())

    def test_a_lost_blob_is_reported(self, tmp_path: Path) -> None:
        with kernel(tmp_path) as running:
            files = running.spawn("alice").storage
            files.write("a", LARGE)
            for blob in (tmp_path / "blobs").glob("*/*"):
                blob.unlink()
            with pytest.raises(StateError, match="cannot be read"):
                files.read("a")

    def test_going_back_to_a_damaged_version_is_refused_and_moving_it_is_not(
        self, tmp_path: Path
    ) -> None:
        with kernel(tmp_path) as running:
            files = running.spawn("alice").storage
            files.write("a", LARGE)
            files.snapshot("then")
            for blob in (tmp_path / "blobs").glob("*/*"):
                blob.write_bytes(b"\0damaged")
            files.move("a", "b")
            files.write("b", "small")

            with pytest.raises(StateError, match="damaged"):
                files.rollback("b", 1)
            with pytest.raises(StateError, match="damaged"):
                files.restore_snapshot("then")
            assert files.read("b") == b"small"
            files.write("c", LARGE)  # the same content, written again
            files.rollback("b", 1)
            assert files.read("b") == LARGE


def test_nothing_of_a_file_is_on_the_disk_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "00" * 32)
    config = KernelConfig.load(
        environ={}, state={"directory": str(tmp_path), "encryption_key": "env:KEY"}
    )
    with Kernel(config, cores=[ScriptedCore("pong")]) as running:
        files = running.spawn("alice").storage
        files.write("small", "the secret")
        files.write("large", b"the secret" * INLINE_BYTES)
        assert files.read("small") == b"the secret"

    stored = [one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()]
    assert not any(b"the secret" in one for one in stored)
