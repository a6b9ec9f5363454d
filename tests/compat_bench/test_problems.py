"""Programming problems: read, asked, put together and judged in a sandbox, or not judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aios_core import SandboxUnavailable
from aios_core.tools.sandbox import ExecutionResult, KilledBy, Sandbox
from compat_bench.code_execution import sandbox_refusal
from compat_bench.problems import Problem, Verdict, code_in, judge, read_problems

SAMPLE = Path(__file__).with_name("problems.jsonl")
DOUBLED, AREA = read_problems(SAMPLE)
RIGHT = "def doubled(number):\n    return 2 * number\n"


def test_a_problem_asks_with_its_prompt() -> None:
    task = DOUBLED.to_task()

    assert '"""Twice a number."""' in task.says[0]
    assert (task.id, task.tools) == ("aios/0", ())


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("x = 1", "x = 1"),
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1", "x = 1"),
    ],
)
def test_the_code_of_an_answer_is_its_first_fenced_block_or_all_of_it(
    completion: str, code: str
) -> None:
    assert code_in(completion) == code


@pytest.mark.parametrize(
    "completion",
    ["def area(radius):\n    return pi * radius**2", "    return pi * radius**2"],
)
def test_a_whole_function_and_a_body_make_programs_that_pass(completion: str) -> None:
    printed = ran(AREA.program(completion, "end"))

    assert printed == ["end"]


def test_a_wrong_candidate_fails_its_test() -> None:
    with pytest.raises(AssertionError):
        ran(DOUBLED.program("def doubled(number): return number", "end"))


async def test_a_candidate_passes_that_ran_to_its_end() -> None:
    assert await judge(Replies(ends=True), DOUBLED, RIGHT) == Verdict(True)


async def test_a_candidate_that_stops_before_its_test_ends_has_not_passed() -> None:
    verdict = await judge(Replies(ends=False), DOUBLED, "raise SystemExit(0)")

    assert verdict == Verdict(False, "it ended before its test did")


async def test_the_last_line_of_a_traceback_or_the_limit_says_why_one_failed() -> None:
    failed = Replies(ends=False, stderr="Traceback ...\nAssertionError\n", exit_code=1)
    stopped = Replies(ends=False, exit_code=137, killed_by=KilledBy.CPU)

    assert (await judge(failed, DOUBLED, RIGHT)).said == "AssertionError"
    assert (await judge(stopped, DOUBLED, RIGHT)).said == "stopped by a limit: cpu"


async def test_candidates_are_judged_in_the_real_sandbox_or_refused() -> None:
    sandbox = Sandbox()
    try:
        if await sandbox_refusal():
            with pytest.raises(SandboxUnavailable):
                await judge(sandbox, DOUBLED, RIGHT)
        else:
            assert (await judge(sandbox, DOUBLED, RIGHT)).is_passed
            assert not (await judge(sandbox, DOUBLED, "import os; os._exit(0)")).is_passed
    finally:
        await sandbox.close()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"task_id": "a"}', "line 2: 'prompt' is missing"),
        ("[]", "line 2: got list"),
        ("{", "line 2: "),
    ],
)
def test_a_line_that_is_no_problem_is_refused_by_its_number(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(f"{SAMPLE.read_text('utf-8').splitlines()[0]}\n{line}\n", encoding="utf-8")

    with pytest.raises(ValueError, match=said):
        read_problems(path)


def test_the_sample_is_in_the_form_that_humaneval_has() -> None:
    assert isinstance(DOUBLED, Problem)
    assert [problem.entry_point for problem in (DOUBLED, AREA)] == ["doubled", "area"]


def ran(program: str) -> list[str]:
    """Return what a program of ours prints."""
    printed: list[str] = []
    exec(program, {"print": printed.append})  # noqa: S102 - written above
    return printed


class Replies(Sandbox):
    """A sandbox that runs nothing and returns a fixed result."""

    def __init__(self, *, ends: bool, **result: Any) -> None:
        self._ends = ends
        self._result = {"stderr": "", "exit_code": 0, "duration_s": 0.0} | result

    async def run(self, language: Any, code: str, **_: Any) -> ExecutionResult:
        assert language == "python"
        token = code.rstrip().rpartition("print(")[2].strip("()'")
        return ExecutionResult(stdout=f"{token}\n" if self._ends else "", **self._result)
