"""The isolation backend `bubblewrap`: `bwrap` with unprivileged namespaces and a seccomp filter.

Confined code gets namespaces of every kind (with a loopback interface as its only network),
the system's programs read-only, a home directory in memory, a /proc with its own processes, a
few devices, a new environment, no capability, and no way to gain privileges. It dies with this
process, and with the thread that started it, so that thread has to live as long.

No untrusted code runs before its limits and files are in place: bwrap sets up the sandbox and
runs `_GATE`, which reports that it is ready and waits for a line on its standard input; files
are copied into /work; `release` sends the line, and the gate executes prlimit(1), which executes
the program. The limits are set inside, because root in a container usually lacks the capability
to set them on another user's process.

bwrap is never started as root: even with every capability dropped, it could write the host's
`core_pattern`. If the kernel runs as root, it switches to the configured user first.
"""

from __future__ import annotations

import json
import os
import platform
import select
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from aios_core.errors import SandboxUnavailable
from aios_core.tools.sandbox import seccomp
from aios_core.tools.sandbox.backend import DOCUMENTS, WORK, Availability, Pipes, Program
from aios_core.tools.sandbox.bwrap_process import BwrapProcess
from aios_core.tools.sandbox.interpreter import (
    Interpreter,
    User,
    can_reach,
    can_read,
    find_interpreter,
)
from aios_core.tools.sandbox.limits import MIB, SandboxLimits
from aios_core.tools.sandbox.packages import PACKAGES
from aios_core.tools.sandbox.tree import Tree

_GATE: Final = 'echo && read -r _ && exec "$@"'
_PATIENCE_S: Final = 20.0  # for bwrap to get ready, even on a very busy machine

_INSTALL: Final = "install bubblewrap (apt install bubblewrap, dnf install bubblewrap)"
_ALLOW: Final = (
    "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1, on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0 or a profile for bwrap; in a container, a "
    "seccomp profile that permits them"
)
_DROP: Final = "set tools.sandbox.uid to an unprivileged user, or do not run as root"

_INSIDE: Final = 1000  # uid and gid inside
_ETC: Final[Mapping[str, str]] = {
    "/etc/passwd": f"agent:x:{_INSIDE}:{_INSIDE}::{WORK}:/bin/sh\n",
    "/etc/group": f"agent:x:{_INSIDE}:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HOME": WORK,
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
}
_SYSTEM: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FROM_ETC: Final = ("/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/localtime")


class Bubblewrap:
    """The isolation backend that uses bubblewrap. Implements `backend.SandboxBackend`."""

    name: Final = "bubblewrap"

    def __init__(
        self,
        *,
        uid: int | None = None,
        gid: int | None = None,
        python: str | None = None,
        read_only: Sequence[str] = (),
    ) -> None:
        """Prepare without looking for bwrap or starting anything.

        Args:
            uid: the user that a root caller switches to; ignored for other callers.
            gid: the group; None for the number of `uid`.
            python: the interpreter to run inside; None for this one, or the system's.
            read_only: further paths of the host that the code may read.
        """
        self._uid = uid
        self._gid = uid if gid is None else gid
        self._python = python
        self._read_only = tuple(read_only)

    def __repr__(self) -> str:
        return f"<Bubblewrap uid={self._uid}>"

    @property
    def python(self) -> str:
        return self._interpreter.executable

    def examine(self) -> Availability:
        try:
            _ = self._bwrap  # first: without bwrap, all other findings are useless
            interpreter = self._interpreter
            process = self.start(Program((interpreter.executable, "-c", ""), SandboxLimits()))
        except SandboxUnavailable as exc:
            reason, _, fix = str(exc).partition("; ")
            return Availability(False, reason, fix)
        try:
            process.release()
            status = process.wait_blocking()
            reason = os.read(process.pipes.stderr, 400).decode(errors="replace").strip()
        finally:
            process.close()
        if status:
            return Availability(False, f"{interpreter.executable} fails inside: {reason}", _PYTHON)
        user = self._user
        return Availability(True, f"{self._bwrap} as user {user.uid}, {interpreter.executable}")

    def start(self, program: Program) -> BwrapProcess:
        bwrap, drop = self._bwrap, self._drop
        with ExitStack() as undo:
            start = _Start(undo)
            start.open_pipes(has_control=program.has_control)
            options = self._options(program, start)
            start.run(bwrap, options, program, drop)
            return start.finish(program.limits, self._user)

    # --- what this machine has --------------------------------------------------------------------

    @cached_property
    def _bwrap(self) -> str:
        if sys.platform != "linux" or platform.machine() not in seccomp.ARCHITECTURES:
            here = f"{platform.system()} on {platform.machine()}"
            known = ", ".join(seccomp.ARCHITECTURES)
            raise SandboxUnavailable(f"bubblewrap does not work on {here}; use Linux on {known}")
        if (found := shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")) is None:
            raise SandboxUnavailable(f"there is no bwrap; {_INSTALL}")
        return found

    @property
    def _user(self) -> User:
        """The user that bwrap runs as. Read at each use, since this process may change its user."""
        if os.geteuid() != 0 and os.getuid() != 0:
            return User(os.geteuid(), os.getegid())
        if not self._uid or not self._gid:
            raise SandboxUnavailable(
                f"the kernel runs as root and has no user to switch to; {_DROP}"
            )
        return User(self._uid, self._gid)

    @property
    def _drop(self) -> dict[str, Any]:
        user = self._user
        if os.geteuid() != 0 and os.getuid() != 0:
            return {}
        return {"user": user.uid, "group": user.gid, "extra_groups": []}

    @cached_property
    def _interpreter(self) -> Interpreter:
        return find_interpreter(self._python, self._user)

    # --- the command line -------------------------------------------------------------------------

    def _options(self, program: Program, start: _Start) -> list[str]:
        """Return the options for bwrap, which applies them in their order."""
        limits = program.limits
        environment = {**_ENVIRONMENT, **program.environment}
        documents = {f"{DOCUMENTS}/{name}": text for name, text in program.documents.items()}
        documents |= {path: text.encode() for path, text in _ETC.items()}
        options = [
            *("--unshare-user", "--disable-userns", "--unshare-ipc", "--unshare-pid"),
            *("--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
            *("--uid", str(_INSIDE), "--gid", str(_INSIDE), "--hostname", "sandbox"),
            *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
            *("--seccomp", str(start.document(seccomp.filter_for(platform.machine())))),
        ]
        for name, value in environment.items():
            options += ["--setenv", name, value]
        options += ["--ro-bind", "/usr", "/usr"]
        for path in _SYSTEM:
            if Path(path).is_symlink():
                options += ["--symlink", str(Path(path).readlink()), path]
            elif Path(path).is_dir():
                options += ["--ro-bind", path, path]
        for path in self._seen():
            options += ["--ro-bind", path, path]
        for place, path in self._shown(program.packages):
            options += ["--ro-bind", path, place]
        for path, content in documents.items():
            options += ["--perms", "0444", "--file", str(start.document(content)), path]
        options += ["--proc", "/proc", "--dev", "/dev"]
        # Process 1 is bwrap itself, which has no limits: hide its memory and descriptors.
        options += ["--perms", "0555", "--size", "4096", "--tmpfs", "/proc/1"]
        for path, size in (
            ("/dev/shm", 64 * MIB),  # noqa: S108 - the sandbox's own
            ("/tmp", limits.disk_bytes),  # noqa: S108
            (WORK, limits.disk_bytes),
        ):
            options += ["--perms", "0700", "--size", str(size), "--tmpfs", path]
        for path in ("/proc/1", "/proc", "/dev", "/"):
            options += ["--remount-ro", path]
        return [*options, "--chdir", WORK]

    def _shown(self, packages: Mapping[str, str]) -> Iterable[tuple[str, str]]:
        """Yield the places of packages inside and on the host.

        Raises:
            SandboxUnavailable: the interpreter has another version, or cannot read a package.
        """
        if packages and self._interpreter.tag != sys.implementation.cache_tag:
            raise SandboxUnavailable(
                f"{self._interpreter.executable} is {self._interpreter.tag}, and the packages of "
                f"tools.sandbox.packages are for {sys.implementation.cache_tag}; name an "
                "interpreter of that version in tools.sandbox.python"
            )
        for place, path in packages.items():
            if not can_read(path, self._user):
                raise SandboxUnavailable(
                    f"user {self._user.uid} cannot read {path}; change tools.sandbox.packages or "
                    "the modes of the environment"
                )
            yield f"{PACKAGES}/{place}", path

    def _seen(self) -> Iterable[str]:
        """Yield further paths of the host to bind read-only."""
        user = self._user
        for path in self._read_only:
            if not can_reach(path, user):
                raise SandboxUnavailable(
                    f"user {user.uid} cannot read {path}; "
                    "change tools.sandbox.read_only or its modes"
                )
        yield from (path for path in _FROM_ETC if can_reach(path, user))
        yield from self._interpreter.directories
        yield from self._read_only


_PYTHON: Final = "name another interpreter in tools.sandbox.python"


class _Start:
    """One start of a program, step by step. If it fails, `undo` closes and kills all of it."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self._theirs: list[int] = []  # descriptors to close once bwrap has its copies
        self._passed: list[int] = []  # those of them that bwrap inherits by number
        self._pipes = Pipes()
        self._undo.callback(self._pipes.close)
        self._control: tuple[str, ...] = ()
        self._stdio: tuple[int, int, int] = (-1, -1, -1)

    def document(self, content: bytes) -> int:
        """Return a descriptor from which bwrap can read `content`."""
        descriptor = os.memfd_create("aios-sandbox")
        self._theirs.append(descriptor)
        self._passed.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    def open_pipes(self, *, has_control: bool) -> None:
        pipes = self._pipes
        stdin, pipes.stdin = self._to_child()
        pipes.stdout, stdout = self._from_child()
        pipes.stderr, stderr = self._from_child()
        self._stdio = (stdin, stdout, stderr)
        if has_control:
            read, pipes.control_in = self._to_child()
            pipes.control_out, write = self._from_child()
            self._control = (str(read), str(write))
            self._passed += [read, write]

    def run(
        self, bwrap: str, options: Sequence[str], program: Program, drop: Mapping[str, Any]
    ) -> None:
        """Start bwrap."""
        self._facts, theirs = self._from_child()
        self._undo.callback(os.close, self._facts)
        self._passed.append(theirs)
        options = [*options, "--info-fd", str(theirs)]
        # Through a descriptor, because any process can read a command line, also inside.
        arguments = self.document("\0".join([*options, ""]).encode())
        limited = ["prlimit", *program.limits.prlimit_options(), "--", *program.argv]
        gate = ["/bin/sh", "-c", _GATE, "gate", *limited, *self._control]
        stdin, stdout, stderr = self._stdio
        try:
            self._outer = subprocess.Popen(  # noqa: S603 - bwrap, with arguments made above
                [bwrap, "--args", str(arguments), "--", *gate],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=self._passed,
                cwd="/",
                env={},
                start_new_session=True,
                **drop,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise SandboxUnavailable(f"bwrap cannot be started ({exc}); {_DROP}") from exc
        finally:
            for descriptor in self._theirs:
                os.close(descriptor)
            self._theirs.clear()
        self._undo.callback(self._outer.wait)
        self._undo.callback(self._outer.kill)

    def finish(self, limits: SandboxLimits, user: User) -> BwrapProcess:
        """Wait for the gate and open pidfds of the processes. Afterwards nothing is undone."""
        init = self._child()
        pidfd = os.pidfd_open(init)
        self._undo.callback(os.close, pidfd)
        if _parent_of(init) != self._outer.pid:  # it has ended, and its pid was reused
            raise self._failed()
        if self._read(self._pipes.stdout, 1) != b"\n":
            raise self._failed()
        program = os.pidfd_open(_only_child(init))
        self._undo.callback(os.close, program)
        root = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            trees = [self._tree(root, name, user) for name in (WORK, "/tmp")]  # noqa: S108
        finally:
            os.close(root)
        process = BwrapProcess(
            self._outer,
            init=(init, pidfd),
            program=program,
            pipes=self._pipes,
            trees=(trees[0], trees[1]),
            suspicious=limits.memory_bytes,
        )
        os.close(self._facts)
        self._undo.pop_all()
        return process

    # --- descriptors ------------------------------------------------------------------------------

    def _to_child(self) -> tuple[int, int]:
        read, write = os.pipe()
        self._theirs.append(read)
        os.set_blocking(write, False)
        return read, write

    def _from_child(self) -> tuple[int, int]:
        read, write = os.pipe()
        self._theirs.append(write)
        os.set_blocking(read, False)
        return read, write

    def _tree(self, root: int, path: str, user: User) -> Tree:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path.lstrip("/"), flags, dir_fd=root)
        self._undo.callback(os.close, descriptor)
        return Tree(descriptor, user.uid, user.gid)

    # --- bwrap's reports --------------------------------------------------------------------------

    def _child(self) -> int:
        report = b""
        while piece := self._read(self._facts, 4_096):
            report += piece
        try:
            return int(json.loads(report)["child-pid"])
        except (ValueError, KeyError, TypeError) as exc:
            raise self._failed() from exc

    def _read(self, descriptor: int, size: int) -> bytes:
        """Read what arrives within `_PATIENCE_S`, or b"" at the end of the stream."""
        readable, _, _ = select.select([descriptor], [], [], _PATIENCE_S)
        if not readable:
            raise self._failed(f"is not ready after {_PATIENCE_S:g} s")
        return os.read(descriptor, size)

    def _failed(self, how: str = "") -> SandboxUnavailable:
        self._outer.kill()
        self._outer.wait()
        reason = how
        if not reason and select.select([self._pipes.stderr], [], [], 1.0)[0]:
            reason = os.read(self._pipes.stderr, 1_000).decode(errors="replace").strip()
        return SandboxUnavailable(f"bwrap cannot confine code on this machine ({reason}); {_ALLOW}")


def _parent_of(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
