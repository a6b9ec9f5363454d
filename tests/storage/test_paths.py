"""Each file has one path, and no path leads out of its owner's root."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.errors import InvalidPath
from aios_core.storage.paths import (
    ancestors,
    canonical,
    canonical_file,
    in_mount,
    inside,
    is_below,
    rebased,
)


@pytest.mark.parametrize(
    ("given_path", "meant"),
    [
        ("a.txt", "/a.txt"),
        ("//a///b/./c/", "/a/b/c"),
        ("/", "/"),
        (".", "/"),
        ("cafe\u0301", "/caf\u00e9"),
        ("\uff41.txt", "/a.txt"),  # full-width a
        ("\ufb01le", "/file"),  # a ligature
    ],
)
def test_a_path_has_one_spelling(given_path: str, meant: str) -> None:
    assert canonical(given_path) == meant


@pytest.mark.parametrize(
    "path",
    [
        "",
        "..",
        "a/../b",
        "\uff0e\uff0e/a",  # full-width dots
        "\u2024\u2024/a",  # one-dot leaders
        "\u2025",  # a two-dot leader
        "a\uff0fb",  # a full-width slash
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x7f",
        "\ud800",
        "a\u202eb",  # turns the text around
        "a\u200bb",  # cannot be seen
        "\ufeffa",
        " a",
        "a\u00a0",  # ends with a blank
        "x" * 256,
        "\u00e9" * 128,
        "a/" * 65,
        "ab/" * 400,
    ],
)
def test_a_path_that_normalizes_to_another_one_is_refused(path: str) -> None:
    with pytest.raises(InvalidPath):
        canonical(path)


@pytest.mark.parametrize("path", [None, b"a", 3])
def test_only_text_is_a_path(path: object) -> None:
    with pytest.raises(InvalidPath, match="text"):
        canonical(path)  # type: ignore[arg-type]


@given(st.text(max_size=60))
def test_a_canonical_path_is_its_own_canonical_form(path: str) -> None:
    try:
        once = canonical(path)
    except InvalidPath:
        return
    assert canonical(once) == once
    assert once.startswith("/")
    assert not {"", ".", ".."} & set(once.split("/")[1:]) or once == "/"


@pytest.mark.parametrize("path", ["/", "/mnt", "mnt/"])
def test_the_root_and_the_directory_of_mounts_are_not_files(path: str) -> None:
    with pytest.raises(InvalidPath, match="directory"):
        canonical_file(path)


def test_below_is_by_names_and_not_by_letters() -> None:
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/a")
    assert is_below("/a", "/")
    assert not is_below("/ab", "/a")
    low, high = inside("/a")
    assert low <= "/a/\U0010ffff" < high
    assert not low <= "/ab" < high


def test_the_parts_of_a_path() -> None:
    assert list(ancestors("/a/b/c")) == ["/a", "/a/b"]
    assert rebased("/a/b", "/a", "/x/y") == "/x/y/b"
    assert rebased("/a", "/", "/x") == "/x/a"
    assert in_mount("/mnt/docs/a/b") == ("docs", "a/b")
    assert in_mount("/mntx/a") is None
