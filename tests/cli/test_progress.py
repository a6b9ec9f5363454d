"""Progress of a command is shown at a terminal and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from aios_core.cli.progress import progress


class TerminalStream(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_at_a_terminal_sees_each_step_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = TerminalStream()
    monkeypatch.setattr(sys, "stderr", screen)

    with progress("counting [sheep]"):
        pass

    assert "counting [sheep] ..." in screen.getvalue()
    assert capsys.readouterr().out == ""


def test_nothing_is_shown_where_standard_error_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())

    with progress("counting") as step:
        step("counting on")

    assert (stream.getvalue(), capsys.readouterr().out) == ("", "")
