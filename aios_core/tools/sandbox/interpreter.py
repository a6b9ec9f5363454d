"""Find the Python interpreter to run inside, and the paths of the host that it needs.

The interpreter of this process is preferred, without the packages of its virtual environment,
which belong to the program. The sandbox's user has to be able to reach it: an interpreter in a
home directory of mode 0700 cannot be used.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from aios_core.errors import SandboxUnavailable

_USUAL: Final = ("/usr/bin/python3", "/usr/local/bin/python3")
_ASK: Final = (
    "import sys; print(sys.base_prefix, sys.prefix, sys.implementation.cache_tag, sep='\\n')"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python interpreter. `directories` are bound read-only, in addition to /usr."""

    executable: str
    directories: tuple[str, ...]
    tag: str  # of its version, as in the names of compiled files: "cpython-311"


@dataclass(frozen=True, slots=True)
class User:
    """The user of the host that the sandbox runs as."""

    uid: int
    gid: int


def find_interpreter(configured: str | None, user: User) -> Interpreter:
    """Return the interpreter to run inside.

    Args:
        configured: the path of one, with its packages; None to search for one without.
        user: has to be able to reach it.

    Raises:
        SandboxUnavailable: there is none that the user can reach.
    """
    own = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    tried = (configured,) if configured else (own, *_USUAL)
    for path in tried:
        interpreter = _described(path, has_packages=bool(configured))
        if interpreter is not None and all(
            can_reach(place, user) for place in (interpreter.executable, *interpreter.directories)
        ):
            return interpreter
    raise SandboxUnavailable(
        f"user {user.uid} can reach none of the Python interpreters {', '.join(tried)}; install "
        "one for all users (apt install python3), or name one in tools.sandbox.python"
    )


def can_reach(path: str, user: User) -> bool:
    """Return whether the modes let a user without other groups enter and read a path."""
    try:
        real = Path(path).resolve(strict=True)
        return all(_may(place.stat(), user) for place in (real, *real.parents))
    except (OSError, RuntimeError):
        return False


def can_read(path: str, user: User) -> bool:
    """Return whether a user without other groups can read a file, or list a folder."""
    try:
        real = Path(path).resolve(strict=True)
        status = real.stat()
        needed = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
        return _has(status, user, needed) and can_reach(str(real.parent), user)
    except (OSError, RuntimeError):
        return False


def _may(status: os.stat_result, user: User) -> bool:
    read_and_enter = 0o5 if stat.S_ISREG(status.st_mode) else 0o1
    return _has(status, user, read_and_enter)


def _has(status: os.stat_result, user: User, needed: int) -> bool:
    shift = 6 if status.st_uid == user.uid else 3 if status.st_gid == user.gid else 0
    return (status.st_mode >> shift) & needed == needed


@cache
def _described(path: str, *, has_packages: bool) -> Interpreter | None:
    """Ask an interpreter for its prefixes and version; None if the path is not a Python."""
    if not os.access(path, os.X_OK):
        return None
    try:
        asked = subprocess.run(  # noqa: S603 - an interpreter of this machine, named by its owner
            [path, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if len(lines := asked.stdout.splitlines()) != 3:  # it ran, but is not a Python
        return None
    base, prefix, tag = lines
    seen: Iterable[str] = (base, prefix) if has_packages else (base,)
    executable = path if has_packages else os.path.realpath(path)
    return Interpreter(executable, tuple(_directories(seen, executable)), tag)


def _directories(prefixes: Iterable[str], executable: str) -> Iterator[str]:
    for prefix in dict.fromkeys(prefixes):
        if not _is_below(prefix, "/usr"):
            yield from (
                str(p) for name in ("bin", "lib", "lib64") if (p := Path(prefix, name)).is_dir()
            )
            if (config := Path(prefix, "pyvenv.cfg")).is_file():
                yield str(config)
    real = os.path.realpath(executable)
    if not _is_below(real, "/usr") and not any(_is_below(real, p) for p in prefixes):
        yield real


def _is_below(path: str, root: str) -> bool:
    return Path(path).is_relative_to(root)
