"""Two directories kept equal, one of which is under hostile control. Needs no sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aios_core.errors import Conflict, QuotaExceeded
from aios_core.tools.sandbox.file_sync import FileSync, copy_changed
from aios_core.tools.sandbox.limits import SandboxLimits
from aios_core.tools.sandbox.tree import Tree

LIMITS = SandboxLimits(disk_bytes=10_000, max_files=50)


class Pair:
    """A host's directory and a work tree."""

    def __init__(self, root: Path) -> None:
        self.outside, self.inside = root / "outside", root / "inside"
        self.outside.mkdir()
        self.inside.mkdir()
        self.descriptor = os.open(self.inside, os.O_RDONLY | os.O_DIRECTORY)
        self.tree = Tree(self.descriptor, os.geteuid(), os.getegid())
        self.sync = FileSync(self.outside, self.tree, LIMITS)

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def put(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


def test_files_go_in_and_changes_come_out(pair: Pair) -> None:
    put(pair.outside, "a.txt", b"one")
    put(pair.outside, "deep/er/b.txt", b"two")
    pair.sync.push()
    put(pair.inside, "a.txt", b"changed")
    put(pair.inside, "new/c.txt", b"three")
    (pair.inside / "deep/er/b.txt").unlink()

    changes = pair.sync.pull()

    assert changes.written == ("a.txt", "new/c.txt")
    assert changes.removed == ("deep/er/b.txt",)
    assert contents(pair.outside) == {"a.txt": b"changed", "new/c.txt": b"three"}
    assert not (pair.outside / "deep").exists()


def test_what_did_not_change_is_not_copied(pair: Pair) -> None:
    put(pair.outside, "a.txt", b"one")
    pair.sync.push()
    before = (pair.outside / "a.txt").stat()

    assert not pair.sync.pull()
    assert (pair.outside / "a.txt").stat() == before


def test_a_program_stays_a_program(pair: Pair) -> None:
    put(pair.outside, "run.sh", b"#!/bin/sh\n")
    (pair.outside / "run.sh").chmod(0o700)

    pair.sync.push()

    assert (pair.inside / "run.sh").stat().st_mode & 0o777 == 0o755


def test_a_link_inside_leads_nowhere(pair: Pair, tmp_path: Path) -> None:
    put(tmp_path, "secret", b"of the host")
    (pair.inside / "link").symlink_to(tmp_path / "secret")
    (pair.inside / "directory").symlink_to(tmp_path)
    os.mkfifo(pair.inside / "pipe")

    changes = pair.sync.pull()

    assert changes.skipped == ("directory", "link", "pipe")
    assert contents(pair.outside) == {}


def test_a_link_of_the_host_is_not_followed_in(pair: Pair, tmp_path: Path) -> None:
    put(tmp_path, "secret", b"of the host")
    (pair.outside / "link").symlink_to(tmp_path / "secret")

    pair.sync.push()

    assert list(pair.inside.iterdir()) == []


def test_a_directory_that_became_a_link_is_not_written_through(pair: Pair, tmp_path: Path) -> None:
    put(pair.outside, "d/a.txt", b"one")
    pair.sync.push()
    (pair.inside / "d/a.txt").unlink()
    (pair.inside / "d").rmdir()
    (pair.inside / "d").symlink_to(tmp_path)
    put(pair.outside, "d/a.txt", b"two")

    with pytest.raises(Conflict, match=r"d/a\.txt"):
        pair.sync.push()

    assert not (tmp_path / "a.txt").exists()


def test_a_name_that_is_no_text_is_skipped(pair: Pair) -> None:
    with open(os.path.join(os.fsencode(pair.inside), b"\xff"), "wb"):  # noqa: PTH118, PTH123
        pass

    changes = pair.sync.pull()

    assert (changes.written, len(changes.skipped)) == ((), 1)


def test_a_file_with_holes_does_not_fill_the_hosts_disk(pair: Pair) -> None:
    put(pair.inside, "a", b"small")
    put(pair.inside, "b", b"")
    os.truncate(pair.inside / "b", 1 << 40)

    changes = pair.sync.pull()

    assert (changes.written, changes.skipped) == (("a",), ("b",))


def test_a_file_that_may_not_be_read_is_skipped(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(pair.inside, "a", b"text")
    real = os.open

    def refuse(path: str, flags: int, *args: int, **options: int) -> int:
        if path == "a":
            raise PermissionError(13, "no", path)
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)

    assert pair.sync.pull().skipped == ("a",)


def test_more_files_than_allowed_remove_none_of_the_host(pair: Pair) -> None:
    put(pair.outside, "z", b"kept")
    pair.sync.push()
    for number in range(LIMITS.max_files + 10):
        put(pair.inside, f"a{number}", b"")

    changes = pair.sync.pull()

    assert changes.removed == ()
    assert (pair.outside / "z").exists()


def test_files_that_are_deeper_than_anybody_needs_are_skipped(pair: Pair) -> None:
    put(pair.inside, "/".join("d" * 70) + "/f", b"x")

    assert pair.sync.pull().written == ()


def test_files_larger_than_the_sandbox_are_refused(pair: Pair) -> None:
    put(pair.outside, "a", b"x" * 10_001)

    with pytest.raises(QuotaExceeded, match="bytes"):
        pair.sync.push()


def test_more_files_than_the_sandbox_takes_are_refused(pair: Pair) -> None:
    for number in range(51):
        put(pair.outside, str(number), b"")

    with pytest.raises(QuotaExceeded, match="files"):
        pair.sync.push()


def test_a_mirror_may_have_limits_of_its_own(pair: Pair) -> None:
    put(pair.outside, "a", b"x" * 10_001)

    FileSync(pair.outside, pair.tree, replace(LIMITS, disk_bytes=10_001)).push()

    assert (pair.inside / "a").stat().st_size == 10_001


NAMES = st.sampled_from(["a", "b", "c/d", "c/e", "c/f/g"])


class Mirroring(RuleBasedStateMachine):
    """After a push or a pull, both sides equal one dictionary."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile  # noqa: PLC0415

        self.place = tempfile.TemporaryDirectory()
        self.pair = Pair(Path(self.place.name))
        self.model: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.pair.close()
        self.place.cleanup()

    @rule(path=NAMES, content=st.binary(max_size=20))
    def written_outside(self, path: str, content: bytes) -> None:
        put(self.pair.outside, path, content)
        self.model[path] = content
        self.pair.sync.push()

    @rule(path=NAMES, content=st.binary(max_size=20))
    def written_inside(self, path: str, content: bytes) -> None:
        put(self.pair.inside, path, content)
        self.model[path] = content
        assert path in self.pair.sync.pull().written

    @rule(path=NAMES, is_inside=st.booleans())
    def removed(self, path: str, is_inside: bool) -> None:
        side = self.pair.inside if is_inside else self.pair.outside
        if self.model.pop(path, None) is not None:
            (side / path).unlink()
            self.pair.sync.pull() if is_inside else self.pair.sync.push()

    @invariant()
    def both_sides_are_alike(self) -> None:
        assert contents(self.pair.inside) == self.model
        assert contents(self.pair.outside) == self.model


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


# --- two directories of the host ------------------------------------------------------------------


def test_one_directory_gets_the_files_of_another_and_only_what_differs_is_touched(
    pair: Pair,
) -> None:
    put(pair.outside, "same", b"one")
    put(pair.outside, "changed", b"two")
    put(pair.outside, "was/a/directory", b"three")
    put(pair.inside, "same", b"one")
    put(pair.inside, "changed", b"owt")
    put(pair.inside, "was", b"a file")
    put(pair.inside, "gone/away", b"four")
    before = (pair.inside / "same").stat()

    copy_changed(pair.outside, pair.inside)

    assert contents(pair.inside) == contents(pair.outside)
    assert (pair.inside / "same").stat() == before
    assert not (pair.inside / "gone").exists()
