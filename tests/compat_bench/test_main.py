"""The command: what it prints and writes, Ctrl-C, and what it refuses before anything runs."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compat_bench import __main__ as command
from compat_bench.backends import Choice, Endpoint, KernelSource, Source, costless_kernel
from compat_bench.baseline_server import at_once, serve
from compat_bench.tasks import Outcome, Task

QUICK = ["--frameworks", "langchain", "--tasks", "single tool", "--each", "2"]
SMALL = [*QUICK, "--agents", "--mixed", "0", "--calls", "0"]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, Path]]]:
    """The command with a framework of ours and models that cost nothing: its status and files."""
    monkeypatch.setenv("AIOS_QUIET", "1")
    monkeypatch.setattr(command, "Models", Costless)

    def run(*arguments: str, driver: object = None) -> tuple[int, Path]:
        monkeypatch.setattr(command, "load_driver", lambda _: driver or Right())
        return command.main([*arguments, "--out", str(tmp_path)]), tmp_path

    yield run
    logging.disable(logging.NOTSET)


def test_a_run_writes_json_markdown_and_a_page(run: Callable[..., tuple[int, Path]]) -> None:
    status, out = run(*SMALL)

    assert status == 0
    assert len(json.loads((out / "results.json").read_text("utf-8"))["tasks"]) == 4
    assert "| single tool | 2 of 2 |" in (out / "results.md").read_text("utf-8")
    assert "<h1>" in (out / "results.html").read_text("utf-8")


def test_ctrl_c_keeps_what_was_complete(
    run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = run(*SMALL, driver=Right(interrupted_at=3))

    assert status == 130
    results = json.loads((out / "results.json").read_text("utf-8"))
    assert [row["system"] for row in results["tasks"]] == ["native", "native"]
    assert not results["is_complete"]
    assert "Interrupted" in (out / "results.html").read_text("utf-8")
    assert "| single tool | not run |" in (out / "results.md").read_text("utf-8")
    assert "this is what was complete" in capsys.readouterr().out


def test_the_matrix_is_all_that_goes_to_the_standard_output(
    run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*SMALL, "--matrix")

    assert capsys.readouterr().out == "|  | Right |\n|---|---|\n| single tool | 2 of 2 |\n"


def test_a_run_before_is_shown_again_without_running_anything(
    run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = run(*SMALL)
    capsys.readouterr()

    status, _ = run("--show", str(out / "results.json"), "--matrix", driver=Right(interrupted_at=1))

    assert status == 0
    assert "| single tool | 2 of 2 |" in capsys.readouterr().out


def test_progress_is_told_line_by_line_where_there_is_no_terminal(
    run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*SMALL)

    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["Right, native: single tool", "Right, kernel: single tool"]


def test_a_framework_that_is_not_installed_is_named_and_the_run_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def load(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setenv("AIOS_QUIET", "1")
    monkeypatch.setattr(command, "load_driver", load)

    assert command.main([*SMALL, "--out", str(tmp_path)]) == 1
    assert "langchain is skipped: No module named" in capsys.readouterr().out
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "juggling"], "no kind of task 'juggling'"),
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--core", "http://127.0.0.1:1/v1"], "--model has to name"),
        (["--each", "0"], "allowed: 1 and above"),
        (["--show", "nowhere.json"], "no results of a run"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)

    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_server_is_reached_by_its_url_with_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    models = command.Models(Choice("http://127.0.0.1:1/v1", "big"))

    with models.endpoint() as endpoint:
        server = endpoint.server

    assert (server.base_url, server.model, server.api_key) == (
        "http://127.0.0.1:1/v1",
        "big",
        "secret",
    )


class Right:
    """A framework with agents that are always right, until Ctrl-C is pressed."""

    name = "Right"
    kinds = frozenset({"single tool"})

    def __init__(self, interrupted_at: int | None = None) -> None:
        self._interrupted_at = interrupted_at
        self._num = 0

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        del source, agent
        self._num += 1
        if self._num == self._interrupted_at:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)  # where a model would be waited for
        return Outcome(list(task.answers), list(task.calls))

    async def say(self, source: Source, agent: str) -> None:
        """Nothing."""


class Costless:
    """Models that cost nothing, in the places of real ones."""

    def __init__(self, choice: Choice) -> None:
        assert choice.core == "tiny"

    @contextmanager
    def endpoint(self) -> Iterator[Endpoint]:
        with serve(at_once, "costless") as server:
            yield Endpoint(server)

    @contextmanager
    def kernel(self, policy: str) -> Iterator[KernelSource]:
        assert policy == "fair"
        with costless_kernel() as kernel:
            yield kernel
