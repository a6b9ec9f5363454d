"""The filter agrees with the table, run by an interpreter of BPF. Needs no sandbox."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.tools.sandbox import bpf, seccomp
from aios_core.tools.sandbox.syscall_numbers import ALLOWED

ALLOW = "allowed"
KILL = "killed"
MACHINES = list(seccomp.ARCHITECTURES)
NEW_NAMESPACES = [0x0002_0000, *(1 << bit for bit in range(25, 31))]


def verdict(machine: str, number: int, arguments: Sequence[int] = (), audit: int = 0) -> str:
    """Return what Linux would do, by running the filter."""
    audit = audit or seccomp.ARCHITECTURES[machine].audit
    padded = [*arguments, *[0] * (6 - len(arguments))]
    content = struct.pack("=IIQ6Q", number, audit, 0, *padded)
    program, at, word = seccomp.program_for(machine), 0, 0
    while True:
        code, then, otherwise, k = program[at]
        at += 1
        match code:
            case bpf.LOAD:
                (word,) = struct.unpack_from("=I", content, k)
            case bpf.JUMP:
                at += k
            case bpf.IF_EQUAL:
                at += then if word == k else otherwise
            case bpf.IF_AT_LEAST:
                at += then if word >= k else otherwise
            case bpf.IF_ANY_BIT:
                at += then if word & k else otherwise
            case bpf.RETURN:
                return _named(k)


def _named(action: int) -> str:
    if action == seccomp.ALLOW:
        return ALLOW
    if action == seccomp.KILL_PROCESS:
        return KILL
    return errno.errorcode[action & 0xFFFF]


def number_of(machine: str, name: str) -> int:
    number = ALLOWED[name][seccomp.ARCHITECTURES[machine].column]
    assert number is not None
    return number


RULED = {"clone", "clone3", "ioctl", "personality", "socket", "socketpair"}


@pytest.mark.parametrize("machine", MACHINES)
def test_exactly_the_calls_of_the_table_are_allowed(machine: str) -> None:
    column = seccomp.ARCHITECTURES[machine].column
    numbers = {numbers[column]: name for name, numbers in ALLOWED.items()}
    highest = max(number for number in numbers if number is not None)

    for number in range(highest + 200):
        if numbers.get(number) in RULED:
            continue
        expected = ALLOW if number in numbers else "EPERM" if number < highest else "ENOSYS"
        assert verdict(machine, number) == expected, number


@given(machine=st.sampled_from(MACHINES), number=st.integers(1_000, (1 << 32) - 1))
def test_a_call_that_the_table_does_not_know_is_not_there(machine: str, number: int) -> None:
    assert verdict(machine, number) == "ENOSYS"


@given(
    machine=st.sampled_from(MACHINES),
    number=st.integers(0, 500),
    audit=st.integers(1, (1 << 32) - 1),
)
def test_a_call_of_another_table_kills(machine: str, number: int, audit: int) -> None:
    if audit != seccomp.ARCHITECTURES[machine].audit:
        assert verdict(machine, number, audit=audit) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flag", NEW_NAMESPACES)
def test_clone_makes_no_namespace(machine: str, flag: int) -> None:
    clone = number_of(machine, "clone")

    assert verdict(machine, clone, [flag | 17]) == "EPERM"
    assert verdict(machine, clone, [0x3D0F00]) == ALLOW  # the flags of a thread


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_is_not_there_because_its_flags_cannot_be_seen(machine: str) -> None:
    assert verdict(machine, number_of(machine, "clone3")) == "ENOSYS"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("call", ["socket", "socketpair"])
@given(process_tree=st.integers(0, (1 << 32) - 1), rest=st.integers(0, (1 << 32) - 1))
def test_sockets_are_unix_whatever_the_upper_half_of_the_argument_says(
    machine: str, call: str, process_tree: int, rest: int
) -> None:
    number = number_of(machine, call)

    expected = ALLOW if process_tree == 1 else "EPERM"
    assert verdict(machine, number, [rest << 32 | process_tree]) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_no_terminal_is_typed_into_whatever_the_upper_half_of_the_argument_says(
    machine: str,
) -> None:
    ioctl = number_of(machine, "ioctl")

    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert verdict(machine, ioctl, [0, request]) == "EPERM"
    assert verdict(machine, ioctl, [0, 0x5401]) == ALLOW  # TCGETS: isatty


@pytest.mark.parametrize("machine", MACHINES)
def test_the_personality_stays(machine: str) -> None:
    personality = number_of(machine, "personality")

    assert verdict(machine, personality, [0x0040_0000]) == "EPERM"
    assert verdict(machine, personality, [0xFFFF_FFFF]) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_jumps_stay_inside_and_every_path_gives_an_answer(machine: str) -> None:
    program = seccomp.program_for(machine)

    for at, (code, then, otherwise, k) in enumerate(program, start=1):
        if code == bpf.RETURN:
            continue
        targets = {at + k} if code == bpf.JUMP else {at + then, at + otherwise}
        assert max(targets) < len(program)


def test_a_far_arm_of_a_branch_is_jumped_to() -> None:
    near = bpf.load(0) * 300 + bpf.give(1)

    program = bpf.branch(bpf.IF_EQUAL, 7, bpf.give(2), near)

    assert program[0] == (bpf.IF_EQUAL, 0, 1, 7)
    assert program[1] == (bpf.JUMP, 0, 0, len(near))
    assert program[2 + len(near) :] == bpf.give(2)


@pytest.mark.parametrize("program", [(), bpf.give(0) * (bpf.MOST_INSTRUCTIONS + 1)])
def test_a_program_that_the_kernel_would_not_take_is_refused(program: bpf.Program) -> None:
    with pytest.raises(ValueError, match="instructions"):
        bpf.encode(program)


def test_there_is_no_filter_for_a_machine_without_a_table() -> None:
    with pytest.raises(KeyError):
        seccomp.filter_for("riscv64")
