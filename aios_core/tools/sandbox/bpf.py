"""Build programs in classic BPF, as far as a seccomp filter needs it.

A program is a tuple of instructions. A branch is a test followed by its two arms, so programs
are composed from programs, without labels to resolve. Jumps only go forward, because the Linux
kernel accepts no others.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

MOST_INSTRUCTIONS: Final = 4_096  # BPF_MAXINSNS
_FARTHEST: Final = 255  # a conditional jump counts in one byte

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS: the 32-bit word at byte k of seccomp_data
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
IF_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K, unsigned
IF_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K


class Instruction(NamedTuple):
    """One `struct sock_filter`. `then` and `otherwise` count from the next instruction."""

    code: int
    then: int
    otherwise: int
    k: int


Program = tuple[Instruction, ...]


def load(offset: int) -> Program:
    """Load the 32-bit word at a byte offset, for the tests that follow."""
    return (Instruction(LOAD, 0, 0, offset),)


def give(action: int) -> Program:
    """End the filter with an action."""
    return (Instruction(RETURN, 0, 0, action),)


def branch(test: int, k: int, then: Program, otherwise: Program) -> Program:
    """Run `then` if the test of the loaded word with `k` holds, else `otherwise`.

    Both arms must end in `give`.
    """
    if len(otherwise) <= _FARTHEST:
        return (Instruction(test, len(otherwise), 0, k), *otherwise, *then)
    over = Instruction(JUMP, 0, 0, len(otherwise))
    return (Instruction(test, 0, 1, k), over, *otherwise, *then)


def encode(program: Program) -> bytes:
    """Encode a program for the Linux kernel, in this machine's byte order.

    Raises:
        ValueError: the program is empty or too long.
    """
    if not 0 < len(program) <= MOST_INSTRUCTIONS:
        raise ValueError(f"{len(program)} instructions; allowed: 1 to {MOST_INSTRUCTIONS}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
