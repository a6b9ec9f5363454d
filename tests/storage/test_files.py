"""Versioned files of agents, through the kernel."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aios_core import Kernel
from aios_core.errors import (
    AccessDenied,
    Conflict,
    InvalidPath,
    InvalidRequest,
    NoSuchObject,
    QuotaExceeded,
)
from aios_core.storage import Storage
from aios_core.storage.requests import FileMove, FileRead, FileWrite, TreeRestore

from .rig import LARGE, kernel, with_labels


class TestVersions:
    @pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
    def test_what_was_written_is_read(self, files: Storage, data: bytes) -> None:
        files.write("a", data)

        assert files.read("/a") == data

    def test_every_write_is_a_version_and_old_ones_stay(self, files: Storage) -> None:
        for text in ("one", "two", LARGE):
            files.write("a", text)

        assert [v.version for v in files.history("a")] == [3, 2, 1]
        assert files.read("a", version=1) == b"one"
        assert files.read_text("a", version=2) == "two"

    def test_creating_what_is_there_is_a_conflict(self, files: Storage) -> None:
        files.create("a", "x")

        with pytest.raises(Conflict):
            files.create("a", "y")

    def test_appending_makes_a_version_with_the_whole(self, files: Storage) -> None:
        files.append("log", "one ")
        files.append("log", LARGE)

        assert files.read("log") == b"one " + LARGE
        assert files.read("log", version=1) == b"one "

    def test_appends_at_the_same_time_all_arrive(self, files: Storage) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: files.append("log", f"{n}\n"), range(40)))

        assert sorted(map(int, files.read_text("log").split())) == list(range(40))

    def test_a_write_that_expects_another_version_is_a_conflict(self, files: Storage) -> None:
        first = files.write("a", "one")
        files.write("a", "two", if_version=first.version)

        with pytest.raises(Conflict, match="at version 2, but if_version is 1"):
            files.write("a", "three", if_version=first.version)
        with pytest.raises(Conflict):
            files.write("a", "new", if_version=0)
        assert files.read("a") == b"two"

    def test_a_diff_says_what_changed(self, files: Storage) -> None:
        files.write("a", "one\ntwo\n")
        files.write("a", "one\n2")

        assert files.diff("a").splitlines()[-4:] == [
            " one",
            "-two",
            "+2",
            "\\ No newline at end of file",
        ]
        assert "+one" in files.diff("a", 0, 1)
        files.write("a", b"\xff\0")
        assert "Binary files" in files.diff("a")

    def test_a_rollback_is_a_version_of_its_own(self, files: Storage) -> None:
        files.write("a", LARGE)
        files.write("a", "two")

        assert files.rollback("a", 1).version == 3
        assert files.read("a") == LARGE
        assert files.read("a", version=2) == b"two"

    def test_a_deleted_file_is_not_read_and_can_be_restored(self, files: Storage) -> None:
        files.write("a", "one")
        files.delete("a")

        with pytest.raises(NoSuchObject):
            files.read("a")
        assert files.list() == []
        assert [f.path for f in files.list(deleted=True)] == ["/a"]
        assert files.read("a", version=1) == b"one"
        files.rollback("a", 1)
        assert files.read("a") == b"one"

    def test_a_move_takes_the_history_along(self, files: Storage) -> None:
        files.write("a", "one")
        files.move("a", "b/c")

        assert files.read("b/c", version=1) == b"one"
        assert [v.change for v in files.history("b/c")] == ["move", "create"]
        with pytest.raises(NoSuchObject):
            files.read("a")

    def test_a_directory_moves_with_all_that_is_in_it(self, files: Storage) -> None:
        for path in ("d/a", "d/e/b", "dx"):
            files.write(path, path)
        files.move("d", "new")

        assert [f.path for f in files.list()] == ["/dx", "/new/a", "/new/e/b"]
        with pytest.raises(Conflict):
            files.move("new", "new/deeper")

    def test_a_deleted_file_steps_aside_for_one_that_moves_there(self, files: Storage) -> None:
        files.write("a", "old")
        files.delete("a")
        files.write("b", "new")
        files.move("b", "a")

        assert files.read("a") == b"new"
        assert files.read("a~1", version=1) == b"old"

    def test_no_file_lies_below_a_file(self, files: Storage) -> None:
        files.write("a", "x")
        with pytest.raises(Conflict, match="/a is a file"):
            files.write("a/b", "y")
        files.write("d/e", "x")
        with pytest.raises(Conflict, match="directory"):
            files.write("d", "y")

    def test_a_missing_file_is_refused_with_the_names_of_its_neighbors(
        self, files: Storage
    ) -> None:
        files.write("notes/a", "x")

        with pytest.raises(NoSuchObject, match="/notes/a"):
            files.read("notes/b")
        with pytest.raises(NoSuchObject, match="version"):
            files.read("notes/a", version=9)

    def test_paths_are_checked_before_anything_happens(self, files: Storage) -> None:
        for path in ("../bob", "a\0", ""):
            with pytest.raises(InvalidPath):
                files.write(path, "x")


class TestRetention:
    def test_the_oldest_versions_are_removed(self) -> None:
        with kernel(max_versions=3) as running:
            files = running.spawn("alice").storage
            for number in range(6):
                files.write("a", str(number))

            assert [v.version for v in files.history("a")] == [6, 5, 4]
            assert files.usage().bytes == 3

    def test_versions_of_a_snapshot_stay(self) -> None:
        with kernel(max_versions=2) as running:
            files = running.spawn("alice").storage
            files.write("a", "kept")
            files.snapshot("first")
            for number in range(5):
                files.write("a", str(number))

            assert files.read("a", version=1) == b"kept"
            files.delete_snapshot("first")
            files.write("a", "last")
            with pytest.raises(NoSuchObject):
                files.read("a", version=1)

    def test_a_moved_content_is_charged_once_until_it_is_removed(self) -> None:
        with kernel(max_versions=2) as running:
            files = running.spawn("alice").storage
            files.write("a", b"x" * 100)
            files.move("a", "b")
            assert files.usage().bytes == 100
            files.move("b", "c")  # the first version goes, its content does not
            assert files.usage().bytes == 100

    def test_purging_frees_what_it_says(self, files: Storage) -> None:
        files.write("a", LARGE)
        files.write("a", "x")
        assert files.purge("a", before=2) == len(LARGE)
        with pytest.raises(Conflict, match="delete it"):
            files.purge("a")
        files.delete("a")
        assert files.purge("a") == 1
        assert (files.usage().bytes, files.usage().files) == (0, 0)
        with pytest.raises(NoSuchObject):
            files.history("a")
        files.write("a", "begins anew")


class TestQuotas:
    def test_bytes_beyond_the_quota_are_refused_with_what_would_free_some(self) -> None:
        with kernel(agent={"max_bytes": 100}) as running:
            files = running.spawn("alice").storage
            files.write("a", b"x" * 60)
            files.write("b", b"x" * 30)
            files.delete("b")

            with pytest.raises(
                QuotaExceeded,
                match=r"90 of 100 bytes .* purge deleted files \(1.* raise storage\.agent\.max",
            ):
                files.write("c", b"x" * 11)
            files.purge("b")
            files.write("c", b"x" * 11)

    def test_files_beyond_the_quota_are_refused(self) -> None:
        with kernel(agent={"max_files": 1}) as running:
            files = running.spawn("alice").storage
            files.write("a", "x")
            with pytest.raises(QuotaExceeded, match="files of storage"):
                files.write("b", "x")
            files.write("a", "y")

    def test_a_group_shares_its_quota(self) -> None:
        with kernel(groups={"team": {"max_bytes": 100}}) as running:
            running.spawn("alice", group="team").storage.write("a", b"x" * 60)
            bob = running.spawn("bob", group="team").storage
            with pytest.raises(QuotaExceeded, match="group 'team'"):
                bob.write("a", b"x" * 60)
            running.spawn("carol").storage.write("a", b"x" * 60)

    def test_what_was_refused_leaves_no_blob(self, tmp_path: Path) -> None:
        with kernel(tmp_path, agent={"max_bytes": 100}) as running:
            with pytest.raises(QuotaExceeded):
                running.spawn("alice").storage.write("a", LARGE)
            running._loop.run(running._inside.parts.storage._background.wait_idle())
            assert not [p for p in (tmp_path / "blobs").rglob("*") if p.is_file()]

    def test_one_file_has_a_limit(self) -> None:
        with kernel(max_file_bytes=10) as running:
            files = running.spawn("alice").storage
            files.append("a", b"x" * 10)
            with pytest.raises(QuotaExceeded, match="one file"):
                files.append("a", b"x")


class TestTrees:
    def test_a_restored_tree_is_what_it_was(self, files: Storage) -> None:
        files.write("p/a", "one")
        files.write("p/b", LARGE)
        files.write("other", "stays")
        files.snapshot("before", "p")
        files.write("p/a", "changed")
        files.move("p/b", "moved")
        files.write("p/new", "later")
        files.write("other", "changed too")

        assert files.restore_snapshot("before", "p") == 3
        assert {f.path: files.read(f.path) for f in files.list("p")} == {
            "/p/a": b"one",
            "/p/b": LARGE,
        }
        assert files.read("moved") == LARGE
        assert files.read("other") == b"changed too"
        assert files.restore_snapshot("before", "p") == 0

    def test_a_snapshot_is_reached_by_the_path_it_was_made_of(self, files: Storage) -> None:
        files.write("p/a", "one")
        files.snapshot("s", "p")
        with pytest.raises(InvalidRequest, match="not of /"):
            files.restore_snapshot("s")
        with pytest.raises(Conflict):
            files.snapshot("s", "p")
        with pytest.raises(NoSuchObject, match="'s'"):
            files.restore_snapshot("t", "p")
        assert [(t.name, t.num_files) for t in files.snapshots()] == [("s", 1)]

    def test_snapshots_are_limited(self) -> None:
        with kernel(max_snapshots=1) as running:
            files = running.spawn("alice").storage
            files.snapshot("a")
            with pytest.raises(QuotaExceeded, match="delete some, such as 'a'"):
                files.snapshot("b")


class TestOthers:
    def test_no_request_reaches_the_files_of_another(self, running: Kernel) -> None:
        alice, bob = running.spawn("alice"), running.spawn("bob").storage
        alice.storage.write("a", "mine")
        alice.storage.snapshot("s")
        owner = alice.identity
        for attempt in (
            lambda: bob.create("b", owner=owner),
            lambda: bob.write("a", "x", owner=owner),
            lambda: bob.append("a", "x", owner=owner),
            lambda: bob.read("a", owner=owner),
            lambda: bob.stat("a", owner=owner),
            lambda: bob.list(owner=owner),
            lambda: bob.move("a", "b", owner=owner),
            lambda: bob.delete("a", owner=owner),
            lambda: bob.purge("a", before=1, owner=owner),
            lambda: bob.usage(owner=owner),
            lambda: bob.history("a", owner=owner),
            lambda: bob.diff("a", owner=owner),
            lambda: bob.rollback("a", 1, owner=owner),
            lambda: bob.snapshot("t", owner=owner),
            lambda: bob.restore_snapshot("s", owner=owner),
            lambda: bob.delete_snapshot("s", owner=owner),
            lambda: bob.snapshots(owner=owner),
            lambda: bob.retrieve("mine", owner=owner),
            lambda: bob.watch(owner=owner),
            lambda: next(bob.watch(owner=owner, after=0)),
        ):
            with pytest.raises(AccessDenied):
                attempt()
        assert alice.storage.read("a") == b"mine"

    def test_a_share_opens_what_it_names_and_no_more(self, running: Kernel) -> None:
        alice, bob = running.spawn("alice"), running.spawn("bob")
        for path in ("shared/a", "sharedx", "own"):
            alice.storage.write(path, path)
        alice.storage.share("shared", bob.identity, ["read", "write"])
        theirs = {"owner": alice.identity}

        bob.storage.write("shared/b", "from bob", **theirs)
        assert alice.storage.history("shared/b")[0].author == bob.identity
        for path in ("sharedx", "own"):
            with pytest.raises(AccessDenied):
                bob.storage.read(path, **theirs)
        with pytest.raises(AccessDenied):
            bob.storage.move("shared/a", "own2", **theirs)
        alice.storage.unshare("shared", bob.identity)
        with pytest.raises(AccessDenied):
            bob.storage.read("shared/a", **theirs)

    def test_a_label_is_not_lost_by_writing_and_reading_back(self, running: Kernel) -> None:
        alice, bob = running.spawn("alice"), running.spawn("bob")
        with_labels(alice, "web")
        alice.storage.write("a", "from the web")
        alice.storage.move("a", "b")
        alice.storage.share("b", bob.identity)

        bob.storage.read("b", owner=alice.identity)

        assert bob._process.labels == {"web"}

    def test_a_rollback_brings_back_the_labels_of_what_it_brings_back(
        self, running: Kernel
    ) -> None:
        alice = running.spawn("alice", group="g")
        with_labels(alice, "web")
        alice.storage.write("a", "of the web")
        alice.exit()
        again = running.spawn("alice", group="g")
        again.storage.write("a", "her own")

        again.storage.rollback("a", 1)

        assert again.storage.history("a")[0].labels == {"web"}
        assert again.storage.history("a")[1].labels == set()

    def test_adding_keeps_the_labels_of_what_was_there(self, running: Kernel) -> None:
        alice = running.spawn("alice")
        with_labels(alice, "web")
        alice.storage.write("a", "x")
        alice.exit()
        again = running.spawn("alice")
        again.storage.append("a", "y")
        assert again.storage.history("a")[0].labels == {"web"}


class TestWatching:
    def test_a_watcher_receives_every_change_below_its_path(self, files: Storage) -> None:
        with files.watch("d", quiet_s=5) as watch:
            files.write("d/a", "x")
            files.write("e", "x")
            files.delete("d/a")

            assert [(next(watch).path, next(watch).change)] == [("/d/a", "delete")]

    def test_a_watcher_that_waits_is_woken(self, files: Storage) -> None:
        watch = files.watch(quiet_s=30)
        heard: list[str] = []
        thread = threading.Thread(target=lambda: heard.append(next(watch).path))
        thread.start()
        files.write("a", "x")
        thread.join(10)
        assert heard == ["/a"]

    async def test_an_event_loop_watches_too(self, files: Storage) -> None:
        async with files.awatch() as watch:
            await files.awrite("a", "x")
            assert (await anext(watch)).path == "/a"

    def test_a_watch_continues_after_a_given_change(self, files: Storage) -> None:
        first = files.write("a", "x")
        files.write("b", "x")
        assert [c.path for c in files.watch(after=first.seq, quiet_s=0.01)] == ["/b"]

    def test_many_changes_come_in_order(self, files: Storage) -> None:
        for number in range(300):
            files.write(f"f{number}", "x")
        changes = list(files.watch(after=0, quiet_s=0.01))
        assert [c.path for c in changes] == [f"/f{number}" for number in range(300)]

    def test_a_watch_ends_with_its_agent(self, running: Kernel) -> None:
        agent = running.spawn("alice")
        watch = agent.storage.watch()
        agent.exit()
        assert list(watch) == []

    def test_a_revoked_grant_ends_a_watch(self, running: Kernel) -> None:
        alice, bob = running.spawn("alice"), running.spawn("bob")
        alice.storage.share("/", bob.identity)
        watch = bob.storage.watch(owner=alice.identity)
        alice.storage.unshare("/", bob.identity)
        alice.storage.write("a", "x")
        with pytest.raises(AccessDenied):
            next(watch)


class TestRequests:
    def test_the_canonical_path_is_checked(self) -> None:
        access = FileRead("a//./b").access("default/alice")
        assert str(access.resource) == "file:default/alice:/a/b"
        assert FileRead("/mnt/d/a", owner="x").access("me").resource.owner is None

    def test_a_move_needs_both_places(self) -> None:
        access = FileMove("/a", "/b", owner="x").access("me")
        assert [access.resource.name, access.also[0].resource.name] == ["/a", "/b"]

    def test_two_contents_are_two_requests_to_an_approver(self) -> None:
        one, other = (FileWrite("a", data).access("me") for data in (b"1", b"2"))
        assert one.arguments != other.arguments

    @pytest.mark.parametrize(
        "make",
        [
            lambda: FileWrite("a", "text"),  # type: ignore[arg-type]
            lambda: FileWrite("a", b"", if_version=-1),
            lambda: FileRead("a", version=True),
            lambda: FileRead("a", owner=""),
            lambda: TreeRestore("/", ""),
        ],
    )
    def test_bad_arguments_are_refused_by_name(self, make: object) -> None:
        with pytest.raises(InvalidRequest, match=r"data|if_version|version|owner|name"):
            make()  # type: ignore[operator]
