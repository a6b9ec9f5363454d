"""A program at a terminal of its own, and what a person there sees."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

PATIENCE_S: Final = 100.0  # spent only by a failure
ROWS, COLUMNS = 40, 100

# Makes standard input the terminal that Ctrl-C is typed at, and becomes the program. Tests that a
# shell runs in the background have Ctrl-C ignored, which the program must not inherit.
_TAKE = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[P\]].*?\x1b\\", re.DOTALL)


class Screen:
    """The lines that a terminal shows, after all that was written to it."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0

    def __str__(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)

    def write(self, text: str) -> None:
        place = 0
        for control in _CONTROL.finditer(text):
            self._print(text[place : control.start()])
            self._obey(control[1], control[2])
            place = control.end()
        self._print(text[place:])

    def _print(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._move(self._row + 1)
            elif character == "\r":
                self._column = 0
            elif character.isprintable():
                if self._column == COLUMNS:
                    self._column = 0
                    self._move(self._row + 1)
                line = self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
                self._column += 1

    def _obey(self, parameter: str | None, letter: str | None) -> None:
        if letter == "A":
            self._move(max(0, self._row - int(parameter or 1)))
        elif letter == "K":
            self.lines[self._row] = ""

    def _move(self, row: int) -> None:
        self._row = row
        while len(self.lines) <= row:
            self.lines.append("")


class Terminal:
    """A running program, its screen, and its keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.screen = Screen()
        self._process = process
        self._descriptor = descriptor
        self._shown = ""

    def sees(self, wanted: str) -> None:
        """Wait until the program has written a text."""
        while wanted not in self._shown:
            if not self._read():
                pytest.fail(f"{wanted!r} was not shown, but:\n{self.screen}")

    def types(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def ends(self) -> int:
        """Wait until the program has ended; returns its exit status."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        if not select.select([self._descriptor], [], [], PATIENCE_S)[0]:
            return False
        try:
            piece = os.read(self._descriptor, 4096).decode(errors="replace")
        except OSError:  # no process has the terminal open
            return False
        self._shown += piece
        self.screen.write(piece)
        return bool(piece)


@contextmanager
def program_at_terminal(
    *arguments: str, cwd: Path, environ: Mapping[str, str]
) -> Iterator[Terminal]:
    """Run a Python program at a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", _TAKE, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        cwd=cwd,
        env=environ,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
