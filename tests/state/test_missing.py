"""A state directory from which something is missing: refused, with the ways out, never swept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest

from aios_core import ConfigError, Kernel, KernelConfig, StateError
from aios_core.cores.scripted import ScriptedCore
from aios_core.state import MEMORY, State, StateOpener
from aios_core.state.acceptance import SET_ASIDE, accept
from aios_core.state.blob_accounts import UNACCOUNTED

LARGE = b"much " * 10_000
WAYS_OUT = r"Nothing was changed\. Restore the whole directory .*aios state accept"


def lived(directory: Path) -> str:
    """A life in which a blob was linked and something else written; the blob's address."""
    state = State.open(directory)
    address = state.blobs.put(LARGE)
    state.database.write(lambda c: state.blobs.link(c, address))
    state.close()
    return address


def killed(directory: Path, into: Path) -> None:
    """Build in `into` what a kernel leaves that was killed in the middle."""
    state = State.open(directory)
    address = state.blobs.put(LARGE)
    state.database.write(lambda c: state.blobs.link(c, address))
    shutil.copytree(directory, into)
    state.close()


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.name != "lock"
    }


def empty(directory: Path) -> None:
    (directory / "state.db").write_bytes(b"")


def remove(directory: Path) -> None:
    (directory / "state.db").unlink()


def cut(directory: Path) -> None:
    whole = (directory / "state.db").read_bytes()
    (directory / "state.db").write_bytes(whole[: len(whole) // 4096 // 2 * 4096])


def begun_anew(directory: Path) -> None:
    """A database without tables, as `sqlite3 state.db vacuum` makes one."""
    (directory / "state.db").unlink()
    connection = apsw.Connection(str(directory / "state.db"))
    connection.execute("CREATE TABLE x (y); DROP TABLE x")
    connection.close()


def foreign(directory: Path) -> None:
    """The database of another state directory."""
    other = directory.with_name("other")
    State.open(other).close()
    shutil.copy(other / "state.db", directory / "state.db")


@pytest.mark.parametrize("harm", [empty, remove, cut, begun_anew, foreign])
class TestDatabaseThatDoesNotFit:
    def test_it_is_refused_and_nothing_is_changed(self, tmp_path: Path, harm: Any) -> None:
        directory = tmp_path / "state"
        lived(directory)
        harm(directory)
        before = tree(directory)

        for _ in range(2):
            with pytest.raises(StateError, match=WAYS_OUT):
                State.open(directory)
        assert {k: v for k, v in tree(directory).items() if "blobs" in k} == {
            k: v for k, v in before.items() if "blobs" in k
        }
        assert tree(directory).keys() >= before.keys()

    def test_a_person_accepts_it_and_nothing_is_removed(self, tmp_path: Path, harm: Any) -> None:
        directory = tmp_path / "state"
        address = lived(directory)
        harm(directory)
        with pytest.raises(StateError):
            State.open(directory)

        assert accept(directory)

        State.open(directory).close()
        stored = [file for file in directory.rglob(address[2:] + "*") if file.is_file()]
        stored += [file for file in directory.rglob(address) if file.is_file()]
        assert stored


@pytest.mark.parametrize("witness", ["lock", "blobs", "audit.head"])
def test_each_witness_is_enough(tmp_path: Path, witness: str) -> None:
    whole, directory = tmp_path / "whole", tmp_path / "state"
    lived(whole)
    (whole / "audit.head").write_text("a head")
    directory.mkdir()
    copy = shutil.copytree if witness == "blobs" else shutil.copy
    copy(whole / witness, directory / witness)

    with pytest.raises(StateError, match=WAYS_OUT):
        State.open(directory)


def test_a_log_that_was_removed_is_missed(tmp_path: Path) -> None:
    directory, dead = tmp_path / "state", tmp_path / "dead"
    lived(directory)
    killed(directory, dead)
    (dead / "state.db-wal").unlink()

    with pytest.raises(StateError, match=r"its log \(state\.db-wal\).*" + WAYS_OUT):
        State.open(dead)


def test_a_log_that_was_removed_is_missed_after_a_checkpoint_too(tmp_path: Path) -> None:
    directory, dead = tmp_path / "state", tmp_path / "dead"
    state = State.open(directory)
    state.database.write(lambda _: None)
    state.database._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
    state.database.write(lambda c: c.execute("CREATE TABLE later (x)"))
    shutil.copytree(directory, dead)
    state.close()
    (dead / "state.db-wal").unlink()

    with pytest.raises(StateError, match=r"its log \(state\.db-wal\) is missing"):
        State.open(dead)


def test_a_kernel_that_died_is_no_reason_to_refuse(tmp_path: Path) -> None:
    directory, dead = tmp_path / "state", tmp_path / "dead"
    killed(directory, dead)

    State.open(dead).close()
    State.open(dead).close()


def test_a_first_start_that_died_before_the_database_was_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12345\n")
    (tmp_path / "blobs").mkdir()

    State.open(tmp_path).close()


class TestBlobs:
    def test_an_unaccounted_file_is_set_aside_and_not_removed(self, tmp_path: Path) -> None:
        lived(tmp_path)
        stranger = tmp_path / "blobs" / "ab" / ("c" * 62)
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_bytes(b"who knows")

        State.open(tmp_path).close()

        assert (tmp_path / UNACCOUNTED / ("ab" + "c" * 62)).read_bytes() == b"who knows"

    def test_what_was_set_aside_comes_back_with_its_row(self, tmp_path: Path) -> None:
        """Put the database of a backup next to the files of another one."""
        directory, backup = tmp_path / "state", tmp_path / "backup"
        address = lived(directory)
        shutil.copytree(directory, backup)
        connection = apsw.Connection(str(directory / "state.db"))
        connection.execute("DELETE FROM blobs")
        connection.close()
        State.open(directory).close()
        assert not (directory / "blobs" / address[:2] / address[2:]).exists()
        for name in ("state.db", "lock"):
            shutil.copy(backup / name, directory / name)

        state = State.open(directory)
        assert state.blobs.get(address) == LARGE
        state.close()

    def test_what_was_noted_as_garbage_goes_at_the_next_start(self, tmp_path: Path) -> None:
        address = lived(tmp_path)
        state = State.open(tmp_path)
        state.database.write(lambda c: state.blobs.unlink(c, address))
        state.database.write(state.blobs._condemn)  # and dies before the file is removed
        state.close()

        State.open(tmp_path).close()

        assert not (tmp_path / "blobs" / address[:2] / address[2:]).exists()
        assert not (tmp_path / UNACCOUNTED).exists()

    def test_blobs_that_are_missing_are_refused_until_accepted(self, tmp_path: Path) -> None:
        address = lived(tmp_path)
        (tmp_path / "blobs" / address[:2] / address[2:]).unlink()

        with pytest.raises(StateError, match=r"1 of 1 blobs are missing.*" + WAYS_OUT):
            State.open(tmp_path)
        assert "1 missing blobs are marked as lost" in " ".join(accept(tmp_path))

        state = State.open(tmp_path)
        with pytest.raises(StateError, match="cannot be read"):
            state.blobs.get(address)
        state.close()

    @pytest.mark.parametrize("harm", [b"\0Data", b"", None])
    def test_writing_a_damaged_content_again_repairs_it(
        self, tmp_path: Path, harm: bytes | None
    ) -> None:
        address = lived(tmp_path)
        file = tmp_path / "blobs" / address[:2] / address[2:]
        state = State.open(tmp_path)
        file.unlink() if harm is None else file.write_bytes(harm)

        assert state.blobs.put(LARGE) == address

        assert state.blobs.get(address) == LARGE
        state.close()

    @pytest.mark.parametrize("harm", [b"\0Data", b"", None])
    @pytest.mark.parametrize("is_read_before", [True, False])
    def test_no_new_row_promises_what_is_damaged(
        self, tmp_path: Path, harm: bytes | None, *, is_read_before: bool
    ) -> None:
        address = lived(tmp_path)
        file = tmp_path / "blobs" / address[:2] / address[2:]
        state = State.open(tmp_path)
        if is_read_before:
            state.blobs.get(address)
        file.unlink() if harm is None else file.write_bytes(harm)

        with pytest.raises(StateError, match=r"damaged|cannot be read"):
            state.database.write(lambda c: state.blobs.relink(c, address))
        state.close()


class TestReplacedWhileItIsOpen:
    @pytest.mark.parametrize("name", [".", "lock", "state.db", "state.db-wal"])
    @pytest.mark.parametrize("how", ["moved", "made anew"])
    def test_nothing_is_written_to_a_lost_directory(
        self, tmp_path: Path, name: str, how: str
    ) -> None:
        directory = tmp_path / "state"
        state = State.open(directory)
        state.database.write(lambda c: c.execute("CREATE TABLE notes (x)"))
        thing = directory / name if name != "." else directory
        away = tmp_path / "away"
        thing.rename(away)
        if how == "made anew":
            shutil.copytree(away, thing) if away.is_dir() else shutil.copy(away, thing)

        with pytest.raises(StateError, match="was moved, removed or replaced"):
            state.database.write(lambda c: c.execute("INSERT INTO notes VALUES (1)"))
        with pytest.raises(StateError, match="was moved, removed or replaced"):
            state.blobs.put(LARGE)
        state.close()

    def test_it_continues_when_the_directory_is_back(self, tmp_path: Path) -> None:
        directory = tmp_path / "state"
        state = State.open(directory)
        directory.rename(tmp_path / "away")
        with pytest.raises(StateError):
            state.database.write(lambda _: None)

        (tmp_path / "away").rename(directory)

        state.database.write(lambda _: None)
        state.close()
        State.open(directory).close()

    def test_closing_leaves_the_log_of_a_later_kernel_alone(self, tmp_path: Path) -> None:
        directory = tmp_path / "state"
        first = State.open(directory)
        directory.rename(tmp_path / "away")
        second = State.open(directory)
        second.database.write(lambda c: c.execute("CREATE TABLE notes (x)"))

        first.close()

        assert (directory / "state.db-wal").exists()
        second.database.write(lambda c: c.execute("INSERT INTO notes VALUES (1)"))
        second.close()
        State.open(tmp_path / "away").close()

    async def test_a_kernel_refuses_and_closes(self, tmp_path: Path) -> None:
        async with kernel_on(tmp_path / "state") as kernel:
            alice = await kernel.aspawn("alice")
            await alice.memory.awrite("notes", "kept")
            shutil.rmtree(tmp_path / "state")

            for write in (
                lambda: alice.memory.awrite("notes", "lost"),
                lambda: alice.storage.awrite("a", LARGE),
            ):
                with pytest.raises(StateError):
                    await write()
        assert not (tmp_path / "state").exists()


class TestKey:
    async def test_a_key_that_comes_later_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("LATE_KEY", raising=False)
        async with kernel_on(tmp_path, encryption_key="env:LATE_KEY") as kernel:
            alice = await kernel.aspawn("alice")
            with pytest.raises(ConfigError, match="LATE_KEY is not set"):
                await alice.memory.awrite("notes", "x")
            monkeypatch.setenv("LATE_KEY", "ab" * 32)

            await alice.memory.awrite("notes", "kept")
            assert await alice.memory.aread("notes") == "kept"

    async def test_a_kernel_without_its_key_closes(self, tmp_path: Path) -> None:
        async with kernel_on(tmp_path, encryption_key=str(tmp_path / "nowhere")) as kernel:
            alice = await kernel.aspawn("alice")
            with pytest.raises(ConfigError):
                await alice.memory.awrite("notes", "x")

    async def test_closing_succeeds_after_any_failure_to_open(self) -> None:
        def broken() -> bytes:
            raise OSError("the key ring is locked")

        opener = StateOpener(MEMORY, broken)
        for _ in range(2):
            with pytest.raises(StateError, match="the key ring is locked"):
                await opener.open()

        await opener.close()


def kernel_on(directory: Path, **state: Any) -> Kernel:
    config = KernelConfig.load(
        environ={}, state={"directory": str(directory), **state}, access={"approver": "allow"}
    )
    return Kernel(config, cores=[ScriptedCore("ok")])


def test_accepting_an_empty_directory_does_nothing(tmp_path: Path) -> None:
    assert accept(tmp_path) == []
    assert not (tmp_path / SET_ASIDE).exists()
