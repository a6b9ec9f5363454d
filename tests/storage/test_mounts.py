"""Mounted directories, and the workspace that a sandbox works on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_core import Kernel
from aios_core.errors import (
    AccessDenied,
    ConfigError,
    Conflict,
    InvalidPath,
    InvalidRequest,
    NoSuchObject,
)
from aios_core.storage import Storage
from aios_core.storage.requests import FileWrite

from .rig import LARGE, kernel, with_labels


class TestMounts:
    @pytest.fixture
    def mounted(self, tmp_path: Path) -> Iterator[Storage]:
        for name in ("docs", "work"):
            (tmp_path / name).mkdir()
        (tmp_path / "docs" / "a.txt").write_text("from the host")
        mounts = {
            "docs": {"directory": str(tmp_path / "docs")},
            "work": {"directory": str(tmp_path / "work"), "mode": "write"},
        }
        with kernel(mounts=mounts) as running:
            yield running.spawn("alice").storage

    def test_files_of_the_host_are_read_with_the_label_of_their_mount(
        self, mounted: Storage
    ) -> None:
        found = mounted.fetch("/mnt/docs/a.txt")
        assert (found.data, found.labels) == (b"from the host", {"mount:docs"})
        assert [f.path for f in mounted.list("/mnt")] == ["/mnt/docs/a.txt"]

    def test_a_mount_for_reading_refuses_changes(self, mounted: Storage) -> None:
        for attempt in (
            lambda: mounted.write("/mnt/docs/b", "x"),
            lambda: mounted.append("/mnt/docs/a.txt", "x"),
            lambda: mounted.delete("/mnt/docs/a.txt"),
            lambda: mounted.move("/mnt/docs/a.txt", "/mnt/docs/b"),
        ):
            with pytest.raises(AccessDenied, match="read-only"):
                attempt()

    def test_a_mount_for_writing_is_a_directory_of_the_host(
        self, mounted: Storage, tmp_path: Path
    ) -> None:
        mounted.write("/mnt/work/d/a", "one")
        mounted.append("/mnt/work/d/a", " two")
        mounted.move("/mnt/work/d/a", "/mnt/work/b")
        assert (tmp_path / "work" / "b").read_text() == "one two"
        with pytest.raises(Conflict):
            mounted.create("/mnt/work/b", "x")
        mounted.delete("/mnt/work/b")
        assert mounted.list("/mnt/work") == []

    def test_what_has_versions_is_refused_in_a_mount(self, mounted: Storage) -> None:
        for attempt in (
            lambda: mounted.history("/mnt/docs/a.txt"),
            lambda: mounted.rollback("/mnt/docs/a.txt", 1),
            lambda: mounted.snapshot("s", "/mnt/docs"),
            lambda: mounted.write("/mnt/work/a", "x", if_version=1),
            lambda: mounted.move("/mnt/docs/a.txt", "/a"),
        ):
            with pytest.raises(InvalidRequest):
                attempt()

    def test_an_unknown_mount_is_refused_with_the_known_ones(self, mounted: Storage) -> None:
        with pytest.raises(NoSuchObject, match="docs"):
            mounted.read("/mnt/dcs/a.txt")

    def test_an_error_in_a_mount_has_the_whole_path(self, mounted: Storage) -> None:
        mounted.write("/mnt/work/sub/a", "x")
        with pytest.raises(InvalidPath, match="'/mnt/work/sub': is a directory"):
            mounted.read("/mnt/work/sub")
        with pytest.raises(NoSuchObject, match="no file '/mnt/docs/zork'"):
            mounted.read("/mnt/docs/zork")
        with pytest.raises(NoSuchObject, match="no file '/mnt/work/zork'"):
            mounted.delete("/mnt/work/zork")

    @pytest.mark.parametrize(
        ("name", "key"), [("docs", "storage.mounts.docs.directory"), ("a/b", "storage.mounts.a/b")]
    )
    def test_a_mount_that_cannot_be_is_refused_at_the_start(
        self, tmp_path: Path, name: str, key: str
    ) -> None:
        directory = tmp_path if "/" in name else tmp_path / "missing"
        with (
            pytest.raises(ConfigError) as caught,
            kernel(mounts={name: {"directory": str(directory)}}),
        ):
            pass
        assert caught.value.key == key

    def test_invalid_contents_and_paths_are_refused_with_what_was_given(
        self, mounted: Storage
    ) -> None:
        with pytest.raises(InvalidRequest, match="got int; allowed: a text or bytes"):
            mounted.write("a", 7)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="is not valid Unicode"):
            mounted.write("a", "\ud800")
        with pytest.raises(InvalidRequest, match="is not valid Unicode"):
            mounted.retrieve("\ud800")
        with pytest.raises(InvalidPath, match="ends with '/', as a directory; the file is '/dir'"):
            mounted.write("dir/", "x")

    def test_an_unknown_version_is_refused_with_those_that_there_are(
        self, mounted: Storage
    ) -> None:
        for number in range(60):
            mounted.write("a", str(number))
        with pytest.raises(NoSuchObject, match=r"no version 99 of /a; have \['1', '2',") as caught:
            mounted.read("a", version=99)
        assert str(caught.value).endswith("'50'] and 10 more")

    def test_labels_of_what_was_written_to_a_mount_are_remembered(self, tmp_path: Path) -> None:
        with kernel(mounts={"w": {"directory": str(tmp_path), "mode": "write"}}) as running:
            alice, bob = running.spawn("alice"), running.spawn("bob")
            with_labels(alice, "web")
            alice.storage.write("/mnt/w/a", "x")
            bob.storage.read("/mnt/w/a")
            assert bob._process.labels == {"web", "mount:w"}

    def test_only_what_overwrites_has_to_be_approved(self) -> None:
        assert FileWrite("/mnt/w/a", b"x").access("me").irreversible
        assert not FileWrite("/a", b"x").access("me").irreversible


class TestWorkspace:
    def test_code_works_on_a_copy_and_its_changes_come_back(
        self, running: Kernel, tmp_path: Path
    ) -> None:
        alice = running.spawn("alice")
        for path in ("a", "d/b", "gone"):
            alice.storage.write(path, path)
        manager, who = running._inside.parts.storage, alice.identity
        running._loop.run(manager.checkout(who, tmp_path))
        (tmp_path / "a").write_text("changed")
        (tmp_path / "gone").unlink()
        (tmp_path / "new").write_bytes(LARGE)
        (tmp_path / "link").symlink_to("/etc/passwd")

        told = running._loop.run(manager.commit(who, tmp_path, frozenset({"code"})))

        assert (told.written, told.deleted) == (("/a", "/new"), ("/gone",))
        assert {f.path for f in alice.storage.list()} == {"/a", "/d/b", "/new"}
        assert alice.storage.history("a")[0].labels == {"code"}
        with pytest.raises(InvalidRequest, match="no checkout"):
            running._loop.run(manager.commit(who, tmp_path, frozenset()))

    def test_what_changed_on_both_sides_is_a_conflict_and_nothing_is_stored(
        self, running: Kernel, tmp_path: Path
    ) -> None:
        alice = running.spawn("alice")
        alice.storage.write("a", "one")
        manager, who = running._inside.parts.storage, alice.identity
        running._loop.run(manager.checkout(who, tmp_path))
        alice.storage.write("a", "meanwhile")
        (tmp_path / "a").write_text("theirs")
        (tmp_path / "b").write_text("new")

        with pytest.raises(Conflict, match="/a was changed"):
            running._loop.run(manager.commit(who, tmp_path, frozenset()))
        assert [f.path for f in alice.storage.list()] == ["/a"]
