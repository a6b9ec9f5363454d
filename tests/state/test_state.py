"""The state directory: durable, one kernel at a time, encrypted if a key is set."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aios_core import ConfigError, KernelClosed, StateError, private_files
from aios_core.state import MEMORY, Connection, Database, State, StateOpener, read_key

KEY = bytes(range(32))
TABLE = ("CREATE TABLE notes (text TEXT NOT NULL UNIQUE)",)


@pytest.fixture(params=["directory", "memory", "sealed"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    where = MEMORY if request.param == "memory" else tmp_path / "state"
    opened = State.open(where, key=KEY if request.param == "sealed" else None)
    opened.database.migrate("notes", TABLE)
    yield opened
    opened.close()


def noting(done: list[str], name: str, real: Callable[..., Any], *args: Any) -> Any:
    done.append(name)
    return real(*args)


def add(text: str) -> object:
    return lambda c: c.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(database: Database) -> list[str]:
    return database.read(lambda c: [row[0] for row in c.execute("SELECT text FROM notes")])


class TestDatabase:
    def test_a_write_that_was_answered_is_read(self, state: State) -> None:
        state.database.write(add("a"))

        assert notes(state.database) == ["a"]

    def test_a_write_that_raises_takes_no_other_with_it(self, state: State) -> None:
        def half(connection: Connection) -> None:
            connection.execute("INSERT INTO notes VALUES ('half')")
            raise ValueError("no more")

        futures = [state.database.submit(work) for work in (add("a"), half, add("b"))]

        with pytest.raises(ValueError, match="no more"):
            futures[1].result()
        futures[2].result()
        assert notes(state.database) == ["a", "b"]

    def test_a_broken_rule_of_the_tables_is_the_writers_own_error(self, state: State) -> None:
        state.database.write(add("a"))

        with pytest.raises(StateError, match="UNIQUE"):
            state.database.write(add("a"))

    def test_a_write_that_ends_the_transaction_harms_only_who_shared_it(self, state: State) -> None:
        def rogue(connection: Connection) -> None:
            connection.execute("ROLLBACK")
            raise ValueError("rogue")

        with pytest.raises(StateError, match="another write in the same commit"):
            state.database.write(rogue)

        state.database.write(add("a"))
        assert notes(state.database) == ["a"]

    def test_a_closed_database_refuses(self, state: State) -> None:
        state.database.close()

        with pytest.raises(KernelClosed):
            state.database.write(add("late"))

    def test_newer_tables_are_refused(self, state: State) -> None:
        state.database.migrate("notes", (*TABLE, "CREATE TABLE more (x)"))

        with pytest.raises(StateError, match="version 2; this program knows versions up to 1"):
            state.database.migrate("notes", TABLE)

    def test_tables_move_forward_once(self, state: State) -> None:
        newer = (*TABLE, "ALTER TABLE notes ADD COLUMN at REAL")
        state.database.migrate("notes", newer)
        state.database.migrate("notes", newer)

        assert state.database.read(lambda c: c.execute("SELECT at FROM notes").fetchall()) == []


class TestBlobs:
    @pytest.mark.parametrize("data", [b"", b"short", b"long " * 10_000])
    def test_a_blob_comes_back(self, state: State, data: bytes) -> None:
        address = state.blobs.put(data)

        assert state.blobs.get(address) == data

    def test_equal_blobs_are_stored_once(self, state: State) -> None:
        assert state.blobs.put(b"same") == state.blobs.put(b"same")

    def test_a_write_of_what_is_there_takes_the_same_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or an agent could find out by the time it takes what others keep."""
        state = State.open(tmp_path)
        state.blobs.put(b"warm")  # so that the write below creates no folder
        done: list[str] = []
        for name in ("fsync", "open"):
            real = getattr(os, name)
            noted = partial(noting, done, name, real)
            monkeypatch.setattr(private_files.os, name, noted)

        address = state.blobs.put(b"same" * 10_000)
        first, done[:] = [*done], []
        state.blobs.put(b"same" * 10_000)

        assert [one for one in first if one != "mkdir"][-len(done) :] == done
        assert first.count("fsync") - done.count("fsync") <= 1  # a folder that was new
        assert state.blobs.get(address)
        state.close()

    def test_a_blob_is_kept_while_a_row_refers_to_it(self, state: State) -> None:
        address = state.blobs.put(b"data")
        state.database.write(lambda c: state.blobs.link(c, address))
        state.database.write(lambda c: state.blobs.relink(c, address))

        state.database.write(lambda c: state.blobs.unlink(c, address))
        assert state.blobs.collect(state.database) == 0

        state.database.write(lambda c: state.blobs.unlink(c, address))
        assert state.blobs.collect(state.database) == 1
        with pytest.raises(StateError, match="cannot be read"):
            state.blobs.get(address)

    def test_a_blob_that_is_about_to_be_linked_is_not_collected(self, state: State) -> None:
        address = state.blobs.put(b"data")
        state.database.write(lambda c: state.blobs.link(c, address))
        state.database.write(lambda c: state.blobs.unlink(c, address))
        state.blobs.put(b"data")

        assert state.blobs.collect(state.database) == 0
        assert state.blobs.get(address) == b"data"

    def test_a_file_is_removed_only_when_no_transaction_can_need_it(self, state: State) -> None:
        """Writes share commits: a file that is removed in one that fails is lost to its row."""
        address = state.blobs.put(b"data")
        state.database.write(lambda c: state.blobs.link(c, address))
        unlinked = threading.Event()
        fail = threading.Event()

        def lost(connection: Connection) -> None:  # shares its commit with the removal below
            state.blobs.unlink(connection, address)
            state.blobs._condemn(connection)
            unlinked.set()
            assert fail.wait(5)
            raise ValueError("the commit fails")

        future = state.database.submit(lost)
        assert unlinked.wait(5)
        fail.set()
        with pytest.raises(ValueError, match="fails"):
            future.result()

        assert state.blobs.get(address) == b"data"

    def test_a_blob_whose_row_was_taken_back_is_collected(self, state: State) -> None:
        address = state.blobs.put(b"data")

        def refused(connection: Connection) -> None:
            state.blobs.link(connection, address)
            raise ValueError("over the quota")

        with pytest.raises(ValueError, match="quota"):
            state.database.write(refused)

        assert state.blobs.collect(state.database) == 1
        with pytest.raises(StateError, match="cannot be read"):
            state.blobs.get(address)

    def test_a_removal_is_written_so_that_no_failed_commit_comes_back(self, state: State) -> None:
        """A commit that could not be synced may be recovered, with a row that needs the file."""
        state.blobs.release(state.blobs.put(b"data"))
        before = state.database.write(lambda c: c.total_changes())

        state.blobs.collect(state.database)

        assert state.database.write(lambda c: c.total_changes()) > before

    def test_a_blob_that_is_wanted_again_while_it_is_collected_stays(self, state: State) -> None:
        address = state.blobs.put(b"data")
        state.blobs.release(address)
        condemn = state.blobs._condemn

        def wanted_meanwhile(connection: Connection) -> set[str]:
            settled = condemn(connection)
            state.blobs.put(b"data")
            return settled

        state.blobs._condemn = wanted_meanwhile  # type: ignore[method-assign]

        assert state.blobs.collect(state.database) == 0
        assert state.blobs.get(address) == b"data"


class TestDirectory:
    def test_an_acknowledged_write_survives_a_restart(self, tmp_path: Path) -> None:
        first = State.open(tmp_path)
        first.database.migrate("notes", TABLE)
        first.database.write(add("kept"))
        address = first.blobs.put(b"kept too")
        first.database.write(lambda c: first.blobs.link(c, address))
        first.close()

        second = State.open(tmp_path)
        assert notes(second.database) == ["kept"]
        assert second.blobs.get(address) == b"kept too"
        second.close()

    def test_a_second_kernel_is_refused_and_told_who_holds_it(self, tmp_path: Path) -> None:
        first = State.open(tmp_path)

        with pytest.raises(StateError, match=r"used by another kernel \(process \d+\)"):
            State.open(tmp_path)
        first.close()
        State.open(tmp_path).close()

    def test_a_killed_kernel_releases_the_directory(self, tmp_path: Path) -> None:
        program = (
            "import os, signal, sys; from aios_core.state import State; "
            "State.open(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"
        )
        command = [sys.executable, "-c", program, str(tmp_path)]
        subprocess.run(command, check=False)  # noqa: S603 - our own program

        State.open(tmp_path).close()

    def test_a_damaged_database_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        State.open(tmp_path).close()
        (tmp_path / "state.db").write_bytes(b"not a database" * 1_000)

        with pytest.raises(StateError, match=r"damaged .* restore it from a backup"):
            State.open(tmp_path)

    def test_a_state_that_cannot_be_written_any_more_still_closes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = State.open(tmp_path)

        def full(_: object) -> None:
            raise StateError("the disk is full")

        monkeypatch.setattr(state.database, "write", full)
        state.close()

        State.open(tmp_path).close()

    def test_a_damaged_blob_is_refused(self, tmp_path: Path) -> None:
        state = State.open(tmp_path)
        address = state.blobs.put(b"data")
        (tmp_path / "blobs" / address[:2] / address[2:]).write_bytes(b"\0Data")

        with pytest.raises(StateError, match="damaged"):
            state.blobs.get(address)
        state.close()

    def test_unreferenced_files_are_removed_at_the_next_start(self, tmp_path: Path) -> None:
        state = State.open(tmp_path)
        address = state.blobs.put(b"never linked")
        state.close()

        State.open(tmp_path).close()
        assert not (tmp_path / "blobs" / address[:2] / address[2:]).exists()


class TestEncryption:
    def test_nothing_of_a_value_is_on_the_disk(self, tmp_path: Path) -> None:
        state = State.open(tmp_path, key=KEY)
        address = state.blobs.put(b"the secret " * 3)
        sealed = state.cipher.encrypt(b"the secret", "agent", "note")

        stored = (tmp_path / "blobs" / address[:2] / address[2:]).read_bytes()
        assert b"secret" not in stored + sealed
        assert state.cipher.decrypt(sealed, "agent", "note") == b"the secret"
        state.close()

    def test_a_value_cannot_be_decrypted_in_another_place(self, tmp_path: Path) -> None:
        state = State.open(tmp_path, key=KEY)
        sealed = state.cipher.encrypt(b"mine", "alice", "note")

        with pytest.raises(StateError, match="cannot be decrypted"):
            state.cipher.decrypt(sealed, "bob", "note")
        state.close()

    @pytest.mark.parametrize(
        ("first", "second", "told"),
        [
            (KEY, None, "is encrypted; set state.encryption_key"),
            (None, KEY, "is not encrypted"),
            (KEY, bytes(32), "is not the key of this state directory"),
        ],
    )
    def test_another_key_is_refused(
        self, tmp_path: Path, first: bytes | None, second: bytes | None, told: str
    ) -> None:
        State.open(tmp_path, key=first).close()

        with pytest.raises(StateError, match=told):
            State.open(tmp_path, key=second)
        State.open(tmp_path, key=first).close()

    @pytest.mark.parametrize(
        ("setting", "told"),
        [("env:NOPE", "variable NOPE is not set"), ("/no/such/key", "No such file")],
    )
    def test_a_missing_key_is_reported_as_missing(self, setting: str, told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            read_key(setting, {})

    def test_a_key_may_be_raw_hexadecimal_or_base64(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        file.write_bytes(KEY)

        assert read_key(str(file)) == KEY
        assert read_key("env:K", {"K": KEY.hex()}) == KEY
        assert read_key("env:K", {"K": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}) == KEY
        assert read_key(None) is None

    @pytest.mark.parametrize("setting", ["env:MISSING", "/no/such/file"])
    def test_a_bad_key_is_refused_by_name(self, setting: str) -> None:
        with pytest.raises(ConfigError, match=r"state\.encryption_key"):
            read_key(setting, {})


class TestOpener:
    async def test_it_opens_once_and_runs_the_migrations(self, tmp_path: Path) -> None:
        opener = StateOpener(tmp_path, lambda: None)
        opener.add_migrations("notes", TABLE)
        assert not opener.is_open

        state = await opener.open()

        await state.database.awrite(add("a"))
        assert await opener.open() is state
        assert notes(state.database) == ["a"]
        await opener.close()

    async def test_a_failure_is_tried_again(self, tmp_path: Path) -> None:
        holder = State.open(tmp_path)
        opener = StateOpener(tmp_path, lambda: None)
        with pytest.raises(StateError):
            await opener.open()
        holder.close()

        assert (await opener.open()).directory == tmp_path
        await opener.close()

    async def test_nothing_is_opened_by_closing(self, tmp_path: Path) -> None:
        opener = StateOpener(tmp_path / "never", lambda: None)

        await opener.close()

        assert not (tmp_path / "never").exists()
