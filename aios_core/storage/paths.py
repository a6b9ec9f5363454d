"""Paths of stored files: one spelling for each, and none that leads out.

    canonical("notes//a.txt") == "/notes/a.txt"

A path counts from its owner's root, "/". It is brought to Unicode's form NFKC,
so that two spellings that look alike are one file. What would mean something else
after that (a full-width slash, dots made of one-dot leaders) is refused, as are
"..", NUL and other control characters, characters that cannot be seen or that turn
the direction of text, backslashes, and names that begin or end with a blank.

Pure; the paths of a real directory are resolved by `rooted_dir`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

from aios_core.errors import InvalidPath
from aios_core.redaction import shown_repr
from aios_core.untrusted.arguments import exact_text, reads_arguments

ROOT: Final = "/"
MOUNTS: Final = "/mnt"  # below it are the shared mounts, the same for every agent
MAX_PATH_BYTES: Final = 1024  # of UTF-8
MAX_NAME_BYTES: Final = 255
MAX_DEPTH: Final = 64

_JOINERS: Final = "\u200c\u200d"  # invisible, and needed to write Persian, Hindi and emoji
_SPECIAL: Final = "/\\"


@reads_arguments
def canonical(path: str) -> str:
    """The one spelling of a path. Raises `InvalidPath`, which says why."""
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
    """The same for something that is to be a file: not the root, nor the place of the mounts."""
    whole = canonical(path)
    if whole in (ROOT, MOUNTS):
        raise InvalidPath(path, "is a directory, not a file")
    if path.endswith("/"):
        raise InvalidPath(path, f"ends as a directory does; the file is {whole!r}")
    return whole


def is_canonical_name(name: str) -> bool:
    """Return whether a name of a real directory can be reached under its own spelling."""
    try:
        return name not in ("", ".") and _canonical_name(name, name) == name
    except InvalidPath:
        return False


def ancestors(path: str) -> Iterator[str]:
    """The directories above a canonical path, without the root: "/a", "/a/b" for "/a/b/c"."""
    end = path.find("/", 1)
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)


def is_below(path: str, root: str) -> bool:
    """Return whether a canonical path is another one, or lies below it."""
    return root in (ROOT, path) or path.startswith(root + "/")


def inside(root: str) -> tuple[str, str]:
    """The bounds of all paths strictly below a canonical one: low <= path < high."""
    stem = "" if root == ROOT else root
    return f"{stem}/", f"{stem}0"  # "0" follows "/"


def rebased(path: str, old: str, new: str) -> str:
    """A path below `old`, seen below `new` instead."""
    rest = path if old == ROOT else path[len(old) :]
    return (rest or ROOT) if new == ROOT else new + rest


def in_mount(path: str) -> tuple[str, str] | None:
    """The mount that a canonical path is in and the path inside it; None: it is in none."""
    if not path.startswith(MOUNTS + "/"):
        return None
    name, _, rest = path[len(MOUNTS) + 1 :].partition("/")
    return name, rest


def _canonical_name(name: str, path: str) -> str:
    plain = unicodedata.normalize("NFKC", name)
    if plain in ("..", ".", ""):
        reason = "'..' is not followed" if name == ".." else f"{name!r} is no name"
        raise InvalidPath(path, reason)
    for char in plain:
        if char in _SPECIAL:
            raise InvalidPath(path, f"{char!r} is not part of a name")
        kind = unicodedata.category(char)
        if kind in ("Cc", "Cs", "Cf", "Zl", "Zp") and char not in _JOINERS:
            raise InvalidPath(path, f"U+{ord(char):04X} cannot be seen")
    if plain != plain.strip():
        raise InvalidPath(path, "a name does not begin or end with a blank")
    if len(plain.encode()) > MAX_NAME_BYTES:
        raise InvalidPath(path, f"a name is longer than {MAX_NAME_BYTES} bytes")
    return plain
