"""Normalize the paths of stored files, so that each file has one path below its owner's root.

    canonical("notes//a.txt") == "/notes/a.txt"

A path is relative to its owner's root, "/". It is normalized to Unicode NFKC, so that two
spellings that look equal are one file. A character that would change the path by that (a
full-width slash, dots made of one-dot leaders) is refused, as are "..", NUL and other
control characters, invisible characters, characters that change the direction of text,
backslashes, and names that start or end with a blank.

Pure; `rooted_dir` resolves the paths of host directories.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

from aios_core.errors import InvalidPath
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import exact_text, reads_arguments

ROOT: Final = "/"
MOUNTS: Final = "/mnt"  # the directory of the shared mounts, equal for every agent
MAX_PATH_BYTES: Final = 1024  # of UTF-8
MAX_NAME_BYTES: Final = 255
MAX_DEPTH: Final = 64

_JOINERS: Final = "\u200c\u200d"  # invisible, and needed to write Persian, Hindi and emoji
_SPECIAL: Final = "/\\"


@reads_arguments
def canonical(path: str) -> str:
    """Return the canonical form of a path. Raises `InvalidPath` with the reason."""
    if not isinstance(path, str):
        raise InvalidPath(shown_repr(path), "a path is a text")
    path = exact_text(path)
    if not path:
        raise InvalidPath(path, "is empty")
    if len(path) > MAX_PATH_BYTES:
        raise InvalidPath(f"{path[:80]}...", f"is longer than {MAX_PATH_BYTES} bytes")
    names = [_canonical_name(name, path) for name in path.split("/") if name not in ("", ".")]
    whole = "/" + "/".join(names)
    if len(names) > MAX_DEPTH:
        raise InvalidPath(path, f"is deeper than {MAX_DEPTH} levels")
    if len(whole.encode()) > MAX_PATH_BYTES:
        raise InvalidPath(path, f"is longer than {MAX_PATH_BYTES} bytes")
    return whole


def canonical_file(path: str) -> str:
    """Return the canonical form of a file's path. Raises `InvalidPath` if it is a directory's."""
    whole = canonical(path)
    if whole in (ROOT, MOUNTS):
        raise InvalidPath(path, "is a directory, not a file")
    if path.endswith("/"):
        raise InvalidPath(path, f"ends with '/', as a directory; the file is {whole!r}")
    return whole


def is_canonical_name(name: str) -> bool:
    """Return whether a name in a host directory is canonical, so that requests can reach it."""
    try:
        return name not in ("", ".") and _canonical_name(name, name) == name
    except InvalidPath:
        return False


def ancestors(path: str) -> Iterator[str]:
    """Yield the directories above a canonical path, without the root: "/a", "/a/b" for "/a/b/c"."""
    end = path.find("/", 1)
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)


def is_below(path: str, root: str) -> bool:
    """Return whether a canonical path equals another one or is below it."""
    return root in (ROOT, path) or path.startswith(root + "/")


def inside(root: str) -> tuple[str, str]:
    """Return the bounds of all paths strictly below a canonical one: low <= path < high."""
    stem = "" if root == ROOT else root
    return f"{stem}/", f"{stem}0"  # "0" follows "/"


def rebased(path: str, old: str, new: str) -> str:
    """Replace the prefix `old` of a canonical path by `new`."""
    rest = path if old == ROOT else path[len(old) :]
    return (rest or ROOT) if new == ROOT else new + rest


def in_mount(path: str) -> tuple[str, str] | None:
    """Return the mount of a canonical path and the path inside it; None: it is not in a mount."""
    if not path.startswith(MOUNTS + "/"):
        return None
    name, _, rest = path[len(MOUNTS) + 1 :].partition("/")
    return name, rest


def _canonical_name(name: str, path: str) -> str:
    plain = unicodedata.normalize("NFKC", name)
    if plain in ("..", ".", ""):
        reason = "'..' is not followed" if name == ".." else f"{name!r} is not a valid name"
        raise InvalidPath(path, reason)
    for char in plain:
        if char in _SPECIAL:
            raise InvalidPath(path, f"{char!r} is not allowed in a name")
        kind = unicodedata.category(char)
        if kind in ("Cc", "Cs", "Cf", "Zl", "Zp") and char not in _JOINERS:
            raise InvalidPath(path, f"U+{ord(char):04X} is invisible; not allowed in a name")
    if plain != plain.strip():
        raise InvalidPath(path, "a name must not start or end with a blank")
    if len(plain.encode()) > MAX_NAME_BYTES:
        raise InvalidPath(path, f"a name is longer than {MAX_NAME_BYTES} bytes")
    return plain
