"""Nothing leads out of a mounted directory: links, races, dots, special files."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from aios_core.errors import InvalidPath, NoSuchObject
from aios_core.storage.rooted_dir import RootedDir, has_openat2

SECRET = b"secret"
WAYS = ["openat2", "walk"]


@pytest.fixture(params=WAYS)
def rooted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RootedDir]:
    if request.param == "openat2" and not has_openat2():
        pytest.skip("this system has no openat2")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "root" / "inner" / "file").write_bytes(b"plain")
    opened = RootedDir(tmp_path / "root", with_openat2=request.param == "openat2")
    yield opened
    opened.close()


def test_a_file_inside_is_read(rooted: RootedDir) -> None:
    assert rooted.read("inner/file", 100)[0] == b"plain"


@pytest.mark.parametrize(
    "path", ["../outside/secret", "inner/../../outside/secret", "..", "/etc/passwd"]
)
def test_dots_and_absolute_paths_lead_nowhere(rooted: RootedDir, path: str) -> None:
    with pytest.raises((InvalidPath, NoSuchObject)):
        rooted.read(path, 100)


@pytest.mark.parametrize("target", ["../outside/secret", "inner/file", "/proc/self/environ"])
def test_no_link_is_followed_even_to_the_inside(
    rooted: RootedDir, tmp_path: Path, target: str
) -> None:
    (tmp_path / "root" / "link").symlink_to(target)

    with pytest.raises(InvalidPath):
        rooted.read("link", 100)
    with pytest.raises(InvalidPath):
        rooted.write("link", b"over")
    with pytest.raises(InvalidPath):
        rooted.append("link", b"over")
    assert (tmp_path / "outside" / "secret").read_bytes() == SECRET


def test_no_link_in_the_middle_is_followed(rooted: RootedDir, tmp_path: Path) -> None:
    (tmp_path / "root" / "way").symlink_to("../outside")

    for act in (
        lambda: rooted.read("way/secret", 100),
        lambda: rooted.write("way/new", b"x"),
        lambda: rooted.delete("way/secret"),
        lambda: rooted.move("inner/file", "way/file"),
    ):
        with pytest.raises(InvalidPath):
            act()
    assert list((tmp_path / "outside").iterdir()) == [tmp_path / "outside" / "secret"]


def test_a_fifo_is_refused_without_waiting_for_its_writer(
    rooted: RootedDir, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "root" / "fifo")

    with pytest.raises(InvalidPath):
        rooted.read("fifo", 100)


def test_deleting_a_link_leaves_what_it_points_to(rooted: RootedDir, tmp_path: Path) -> None:
    (tmp_path / "root" / "link").symlink_to("../outside/secret")

    rooted.delete("link")

    assert (tmp_path / "outside" / "secret").read_bytes() == SECRET


def test_a_listing_leaves_links_and_special_files_out(rooted: RootedDir, tmp_path: Path) -> None:
    (tmp_path / "root" / "way").symlink_to("../outside")
    os.mkfifo(tmp_path / "root" / "fifo")

    assert [name for name, _ in rooted.walk()] == ["inner/file"]


def test_what_is_written_is_there_whole_and_nothing_else_is(
    rooted: RootedDir, tmp_path: Path
) -> None:
    rooted.write("new/deep/file", b"one")
    rooted.write("new/deep/file", b"two")
    rooted.append("new/deep/file", b" three")

    assert rooted.read("new/deep/file", 100)[0] == b"two three"
    assert [one.name for one in (tmp_path / "root" / "new" / "deep").iterdir()] == ["file"]


def test_what_must_be_new_does_not_replace(rooted: RootedDir) -> None:
    with pytest.raises(FileExistsError):
        rooted.write("inner/file", b"over", is_new=True)
    rooted.write("other", b"x")
    with pytest.raises(FileExistsError):
        rooted.move("other", "inner/file")
    assert rooted.read("inner/file", 100)[0] == b"plain"


@pytest.mark.parametrize("tries", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_race_with_a_link_gets_out(rooted: RootedDir, tmp_path: Path, tries: int) -> None:
    """A thread swaps a folder and a link to the outside as fast as it can."""
    root, over = tmp_path / "root", threading.Event()
    (root / "folder").mkdir()
    (root / "folder" / "secret").write_bytes(b"inside")
    (root / "link").symlink_to("../outside")

    def swap() -> None:
        while not over.is_set():
            for one, other in (("folder", "aside"), ("link", "folder")):
                (root / one).rename(root / other)
            for one, other in (("folder", "link"), ("aside", "folder")):
                (root / one).rename(root / other)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = {b"inside": 0, SECRET: 0, b"refused": 0}
    try:
        for number in count():
            if number >= tries and (seen[b"inside"] or number >= 100 * tries):
                break  # on a busy machine the folder may be aside whenever we look
            try:
                seen[rooted.read("folder/secret", 100)[0]] += 1
                if number % 10 == 0:
                    os.close(rooted.open(f"folder/{number}", os.O_WRONLY | os.O_CREAT))
            except (InvalidPath, NoSuchObject):
                seen[b"refused"] += 1
    finally:
        over.set()
        swapper.join()

    assert seen[SECRET] == 0
    assert seen[b"inside"] > 0
    assert [one.name for one in (tmp_path / "outside").iterdir()] == ["secret"]
