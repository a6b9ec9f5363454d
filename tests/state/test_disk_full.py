"""A full disk: the error states what to do, and writing then continues by itself."""

from __future__ import annotations

import errno
from pathlib import Path

import apsw
import pytest

from aios_core import StateError
from aios_core.access.audit.chain import GENESIS, Head
from aios_core.access.audit.heads import write_head
from aios_core.state import NullCipher, State

ADVICE = "the disk is full.*[Ff]ree space on the disk of .*; writing continues by itself then"


def full(*_args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_database_says_what_to_do(tmp_path: Path) -> None:
    state = State.open(tmp_path)

    def write(_connection: apsw.Connection) -> None:
        raise apsw.FullError("database or disk is full")

    with pytest.raises(StateError, match=ADVICE):
        state.database.write(write)
    state.close()


def test_the_head_of_the_trail_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(StateError, match=ADVICE):
        write_head(tmp_path, Head(0, GENESIS, 0.0), NullCipher())
