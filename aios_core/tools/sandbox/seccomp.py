"""The seccomp filter: the list of system calls that confined code may make.

Promises: a call through the table of another architecture kills the process; a number that is
newer than this table returns ENOSYS, so that libraries fall back; any other call that is not
allowed returns EPERM. Sockets are limited to AF_UNIX, no namespace can be created, and no
input can be injected into a terminal. Pure: `filter_for` returns bytes, which `bwrap` loads.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from aios_core.tools.sandbox import bpf
from aios_core.tools.sandbox.bpf import Program
from aios_core.tools.sandbox.syscall_numbers import ALLOWED

KILL_PROCESS: Final = 0x8000_0000
ERRNO: Final = 0x0005_0000
ALLOW: Final = 0x7FFF_0000

# offsets in struct seccomp_data
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16  # 64 bits each, low word first on all machines of `ARCHITECTURES`

_NEW_NAMESPACES: Final = 0x7E02_0000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_AF_UNIX: Final = 1
_TERMINAL_INPUT: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PERSONALITIES: Final = (0, 0xFFFF_FFFF)  # the default one, and the query of the current one

_permit: Final = bpf.give(ALLOW)
_refuse: Final = bpf.give(ERRNO | errno.EPERM)
_unknown: Final = bpf.give(ERRNO | errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A machine: `audit` is its AUDIT_ARCH_* of Linux, `column` that of the table of numbers."""

    audit: int
    column: int


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "x86_64": Architecture(0xC000_003E, 0),
    "aarch64": Architecture(0xC000_00B7, 1),
}


def filter_for(machine: str) -> bytes:
    """Return the encoded filter for a value of `platform.machine()`.

    Raises:
        KeyError: there is no table for that machine.
    """
    return bpf.encode(program_for(machine))


@cache
def program_for(machine: str) -> Program:
    """Return the filter for a machine, as instructions."""
    architecture = ARCHITECTURES[machine]
    checked = bpf.load(_NUMBER) + _search(_answers(architecture.column))
    return bpf.load(_ARCHITECTURE) + bpf.branch(
        bpf.IF_EQUAL, architecture.audit, checked, bpf.give(KILL_PROCESS)
    )


def _answers(column: int) -> dict[int, Program]:
    """Return the program for each allowed system call, by number."""
    answers: dict[int, Program] = {}
    for name, numbers in ALLOWED.items():
        if (number := numbers[column]) is not None:
            answers[number] = _RULES[name]() if name in _RULES else _permit
    return answers


def _search(answers: Mapping[int, Program]) -> Program:
    """Return a binary search over ranges of numbers with equal answers.

    `answers` must not be empty. A linear search would cost every system call more.
    """
    highest = max(answers)
    runs: list[tuple[int, Program]] = []  # the first number of each range, and its answer
    for number in range(highest + 1):
        answer = answers.get(number, _refuse)
        if not runs or answer != runs[-1][1]:
            runs.append((number, answer))
    return _halve([*runs, (highest + 1, _unknown)])


def _halve(runs: list[tuple[int, Program]]) -> Program:
    if len(runs) == 1:
        return runs[0][1]
    middle = len(runs) // 2
    return bpf.branch(
        bpf.IF_AT_LEAST, runs[middle][0], _halve(runs[middle:]), _halve(runs[:middle])
    )


# --- rules that depend on arguments ---------------------------------------------------------------


def _argument(index: int) -> Program:
    """Load the low word of an argument; Linux ignores the high word of those that are checked."""
    return bpf.load(_ARGUMENTS + 8 * index)


def _one_of(index: int, words: tuple[int, ...]) -> Program:
    program = _refuse
    for word in words:
        program = bpf.branch(bpf.IF_EQUAL, word, _permit, program)
    return _argument(index) + program


def _none_of(index: int, words: tuple[int, ...]) -> Program:
    program = _permit
    for word in words:
        program = bpf.branch(bpf.IF_EQUAL, word, _refuse, program)
    return _argument(index) + program


def _clone() -> Program:
    return _argument(0) + bpf.branch(bpf.IF_ANY_BIT, _NEW_NAMESPACES, _refuse, _permit)


_RULES: Final[Mapping[str, Callable[[], Program]]] = {
    "clone": _clone,
    "clone3": lambda: _unknown,  # its flags are in memory, invisible to filters; clone replaces it
    "ioctl": lambda: _none_of(1, _TERMINAL_INPUT),
    "personality": lambda: _one_of(0, _PERSONALITIES),
    "socket": lambda: _one_of(0, (_AF_UNIX,)),
    "socketpair": lambda: _one_of(0, (_AF_UNIX,)),
}
