"""Run a program, and end its descendants when it ends or is no longer needed.

    python -I -S guardian.py LIFELINE PROGRAM [ARGUMENT ...]

A program's descendants may leave its process group and its session (`setsid`, a double
fork), where signals to a group do not find them. On Linux, this process adopts them when
their parents end (`PR_SET_CHILD_SUBREAPER`), so they always stay its descendants.

It ends them when the program ends, when it receives `SIGUSR1`, and when the pipe LIFELINE (a
file descriptor) closes because its owner died. Then it ends with the status of the program.

Other systems have no such adoption: descendants that leave the process group keep running.
Uses only Python's standard library, to start in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

_PR_SET_CHILD_SUBREAPER = 36
_PASS_S = 0.002  # between two scans for descendants
_ENDING_S = 5.0  # after which the guardian ends, even if descendants are left
_FOR_THE_PROGRAM = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # sent to the whole group


def main() -> None:
    """Run the program of the command line until it and its descendants have ended."""
    lifeline, program = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(lifeline, False)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    awake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)
    for number in _FOR_THE_PROGRAM:
        signal.signal(number, signal.SIG_IGN)
    status = _watch(_start(program), lifeline, awake)
    _end_all()
    _end_like(status)


def _start(program: list[str]) -> int:
    usual = {*_FOR_THE_PROGRAM, signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1}
    try:
        pid = os.posix_spawnp(program[0], program, os.environ, setsigdef=usual)
    except OSError as exc:
        sys.exit(f"{program[0]} cannot be started: {exc.strerror}")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # or else its pipes stay open after the program has closed them
        os.dup2(nowhere, stream)
    return pid


def _watch(pid: int, lifeline: int, awake: int) -> int | None:
    """Wait until the program ends. Returns its status, or None if it has to be killed."""
    waiting = select.poll()
    waiting.register(lifeline, select.POLLIN)
    waiting.register(awake, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in waiting.poll()}
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:  # the program, or an adopted descendant
            if ended[0] == pid:
                return ended[1]
        if lifeline in ready or signal.SIGUSR1 in os.read(awake, 4_096):
            return None


def _end_all() -> None:
    """Stop all descendants, so that none starts another process; then kill them."""
    late = time.monotonic() + _ENDING_S
    seen: set[int] = set()
    while (new := _descendants() - seen) and time.monotonic() < late:
        _signal(new, signal.SIGSTOP)
        seen |= new
    while _has_children() and time.monotonic() < late:
        _signal(_descendants(), signal.SIGKILL)
        time.sleep(_PASS_S)


def _has_children() -> bool:
    """Reap ended children. Returns whether any child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> set[int]:
    """Return the descendants of this process that are not zombies, or have living children."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else ():  # noqa: PTH208 - as below
        if name.isdecimal():
            with suppress(OSError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - starts sooner
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    left = [os.getpid()]
    while left:
        mine = children.get(left.pop(), [])
        found.update(mine)
        left.extend(mine)
    return found


def _end_like(status: int | None) -> None:
    """End this process as the program ended: by the same signal, or with the same status."""
    if status is not None and os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = signal.SIGKILL if status is None else os.WTERMSIG(status)
    import resource  # noqa: PLC0415 - seldom needed

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has written its own core dump
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    main()
