"""The drivers with the tiny model: every kind of task, and the same on the kernel as natively."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compat_bench.code_execution import run_plainly
from compat_bench.drivers import ModelFreeDriver, load_driver, react
from compat_bench.drivers.base import Recorder
from compat_bench.records import Results
from compat_bench.tasks import CODE_EXECUTION, KINDS, Outcome, make_tasks

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("langchain", "autogen", "llamaindex")


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_driver_takes_every_kind_of_task_and_the_kernel_changes_nothing(
    framework: str, tmp_path: Path
) -> None:
    # In a process of its own, since frameworks leave resources open.
    arguments = ["--frameworks", framework, "--each", "1", "--agents", "--mixed", "0"]
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "compat_bench", *arguments, "--calls", "0", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = Results.from_dict(json.loads((tmp_path / "results.json").read_text("utf-8")))
    (name,) = results.frameworks()

    assert [row.error for row in results.tasks if row.error] == []
    assert {row.kind for row in results.tasks} == set(KINDS)
    assert {row.kind for row in results.tasks if row.skipped} <= {CODE_EXECUTION}
    found = results.correctness(name)
    assert found.same == found.both >= len(KINDS) - 1
    assert found.native_right >= len(KINDS) - 3  # the model is tiny


@pytest.mark.filterwarnings("ignore")  # frameworks warn as they are imported
@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_a_driver_says_what_its_framework_costs_by_itself(framework: str) -> None:
    driver = load_driver(framework)

    assert isinstance(driver, ModelFreeDriver)
    await driver.call_without_model()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(6 * 7)", "42"),
        ("x = 1", "ok"),
        ("print(", "error: SyntaxError: '(' was never closed"),
        ("raise ValueError('no')", "error: ValueError: no"),
    ],
)
async def test_plain_code_says_what_it_printed_or_its_last_complaint(code: str, said: str) -> None:
    assert await run_plainly("python", code) == said


async def test_plain_code_of_another_language_is_refused() -> None:
    assert await run_plainly("cobol", "DISPLAY 1") == "error: no language cobol"


async def test_a_tool_with_nothing_behind_it_answers_what_its_task_says() -> None:
    (task,) = make_tasks(["single tool"], 1)
    outcome = Outcome()
    (call,) = task.calls

    said = await Recorder(task, outcome).arun(call.name, dict(call.arguments))

    assert said in task.answers[0]
    assert outcome.calls == [call]


def test_an_action_is_read_from_the_text_and_an_answer_is_none() -> None:
    step = 'Thought: I need a tool.\nAction: add\nAction Input: {"a": 1}'

    assert react.action_in(step) == react.Action("add", {"a": 1})
    assert react.action_in("Thought: I know.\nAnswer: 2") is None
    assert react.action_in("Action: add\nAction Input: {oops}") is None
    assert react.answer_in("Thought: I know.\nAnswer: 2") == "2"
