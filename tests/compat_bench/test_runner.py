"""The runner: every task on both systems, rows as soon as they are known, failures as results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aios_core.tools.sandbox import ExecutionResult, Sandbox
from compat_bench.backends import Endpoint, KernelSource, Source, costless_kernel
from compat_bench.baseline_server import at_once, serve
from compat_bench.drivers import CannotRun
from compat_bench.findings import findings
from compat_bench.html_page import page
from compat_bench.problems import Problem
from compat_bench.records import BARE, KERNEL, NATIVE, Results, TaskRow
from compat_bench.runner import Plan, Runner
from compat_bench.tables import grid, markdown, matrix, tables
from compat_bench.tasks import Outcome, Task, make_tasks

TASKS = tuple(make_tasks(["single tool", "plain talk"], 2))


class Fake:
    """A framework with agents that are always right, except where a test makes them fail."""

    def __init__(
        self,
        name: str,
        fails: frozenset[str] = frozenset(),
        lacks: frozenset[str] = frozenset(),
        kinds: frozenset[str] = frozenset({"single tool", "plain talk", "code execution"}),
    ) -> None:
        self.name = name
        self.kinds = kinds
        self._fails = fails
        self._lacks = lacks
        self.done: list[tuple[str, str]] = []

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        self.done.append((NATIVE if isinstance(source, Endpoint) else KERNEL, task.kind))
        if task.id in self._fails:
            raise RuntimeError(f"{agent} gave up")
        if task.id in self._lacks:
            raise CannotRun("the moon is not full")
        return Outcome(list(task.answers), list(task.calls))

    async def say(self, source: Source, agent: str) -> None:
        if isinstance(source, KernelSource):
            spawned = await source.kernel.aspawn(agent)
            async with spawned:
                await spawned.llm.agenerate("hi")


class Costless:
    """Models that cost nothing, in the places of real ones."""

    @contextmanager
    def endpoint(self) -> Iterator[Endpoint]:
        with serve(at_once, "costless") as server:
            yield Endpoint(server)

    @contextmanager
    def kernel(self, policy: str) -> Iterator[KernelSource]:
        assert policy == "fair"
        with costless_kernel() as kernel:
            yield kernel


async def run(
    *drivers: Fake, tasks: tuple[Task, ...] = TASKS, no_sandbox: str = "", **settings: Any
) -> Results:
    async def refusal() -> str:
        return no_sandbox

    results, steps = Results(), list[None]()
    plan = Plan(drivers, tasks, (2,), "fair", overhead_calls=3, mixed_agents=2, **settings)
    runner = Runner(
        plan,
        Costless(),  # type: ignore[arg-type]
        results,
        lambda _: None,
        lambda: steps.append(None),
        refusal=refusal,
        make_sandbox=Passes,
    )
    await runner.run()
    assert len(steps) == plan.num_steps()
    return results


PROBLEM = Problem("t/1", "def one():\n", "one", "def check(f): assert f() == 1")


class Passes(Sandbox):
    """A sandbox that runs nothing; every candidate reaches its end."""

    async def run(self, language: Any, code: str, **_: Any) -> ExecutionResult:
        assert language == "python"
        token = code.rstrip().rpartition("print(")[2].strip("()'")
        return ExecutionResult(token, "", 0, 0.0)


def row_of(system: str) -> TaskRow:
    return TaskRow("A", system, "chain 1", "chain", True, True, "yes", "", 0.1)


async def test_every_task_is_done_natively_and_on_the_kernel() -> None:
    results = await run(Fake("A"))

    found = results.correctness("A")
    assert (found.native_right, found.kernel_right, found.same) == (4, 4, 4)
    assert results.is_complete


async def test_a_framework_that_fails_is_a_result_and_the_others_go_on() -> None:
    results = await run(Fake("A", frozenset({TASKS[0].id})), Fake("B"))

    (error,) = {row.error for row in results.tasks if row.framework == "A" and row.error}
    assert "gave up" in error
    assert results.correctness("A").kernel_right == 3
    assert results.correctness("B").kernel_right == 4


async def test_agents_that_fail_under_load_are_counted_and_say_why() -> None:
    results = await run(Fake("A", frozenset({TASKS[0].id})))

    assert [row.failed for row in results.loads] == [1, 1]
    assert all("gave up" in row.errors[0] for row in results.loads)


async def test_load_overhead_and_the_mix_have_rows_for_both_systems() -> None:
    results = await run(Fake("A"), Fake("B"))

    assert [(row.system, row.agents) for row in results.loads if row.framework == "A"] == [
        (NATIVE, 2),
        (KERNEL, 2),
    ]
    assert {(row.framework, row.system) for row in results.overheads} >= {
        (name, system) for name in "AB" for system in (NATIVE, KERNEL)
    }
    assert (BARE, KERNEL) in {(row.framework, row.system) for row in results.overheads}
    assert {row.system for row in results.mixed} == {"each for itself", "one kernel"}


async def test_what_is_known_is_shown_as_tables_markdown_and_a_page() -> None:
    results = await run(Fake("A"), Fake("B"))
    results.about = {"model": "none"}

    assert next(table.title for table in tables(results)) == "Answers"
    text = "\n".join(markdown(results))
    assert "| A | 4/4 | 4/4 | 4/4 | 0 | 0 |" in text
    shown = page(results)
    assert "<svg" in shown
    assert "http" not in shown.replace("http-equiv", "")  # nothing is fetched


async def test_results_that_were_written_are_read_back_as_they_were() -> None:
    results = await run(Fake("A"), Fake("B"))

    again = Results.from_dict(json.loads(json.dumps(results.to_dict())))

    assert list(markdown(again)) == list(markdown(results))


async def test_a_task_that_lacks_something_is_skipped_with_the_reason_and_not_wrong() -> None:
    results = await run(Fake("A", lacks=frozenset({TASKS[0].id})))

    assert results.correctness("A").native == 3
    assert results.why_skipped("A", "single tool") == "the moon is not full"
    assert "the moon is not full" in page(results)


async def test_without_a_sandbox_code_runs_natively_alone_and_the_matrix_says_why() -> None:
    driver = Fake("A")
    code = tuple(make_tasks(["code execution"], 1))

    results = await run(driver, tasks=code, no_sandbox="nothing confines it (get a jail)")

    first = driver.done[:2]
    assert first == [(NATIVE, "code execution"), (NATIVE, "code execution")]  # the next: the load
    assert results.tasks[1].skipped == "nothing confines it (get a jail)"
    assert "| code execution | skipped: nothing confines it |" in grid(matrix(results))


async def test_the_matrix_says_of_each_cell_what_was_run_and_what_was_not() -> None:
    results = await run(Fake("A"), Fake("B", kinds=frozenset({"plain talk"})))

    lines = list(grid(matrix(results)))

    assert "| single tool | 2 of 2 | not offered |" in lines
    assert "| plain talk | 2 of 2 | 2 of 2 |" in lines


def test_the_matrix_of_a_run_that_was_interrupted_has_no_cell_that_was_not_run() -> None:
    results = Results(kinds=["chain"], offered={"A": ["chain"]})
    results.tasks += [row_of(NATIVE)]

    assert "| chain | not run |" in grid(matrix(results))
    assert findings(results) == []


async def test_the_load_is_of_tasks_whose_time_is_the_models() -> None:
    tasks = (*TASKS, *make_tasks(["code execution"], 2))
    driver = Fake("A")

    await run(driver, tasks=tasks)

    assert driver.done[len(tasks) * 2 :]  # after the answers
    assert {kind for _, kind in driver.done[len(tasks) * 2 :]} <= {"single tool", "plain talk"}


async def test_what_frameworks_write_for_problems_is_judged_on_both_systems() -> None:
    results = await run(Fake("A"), Fake("B", kinds=frozenset({"single tool"})), problems=(PROBLEM,))

    assert [(row.framework, row.system, row.is_passed) for row in results.problems] == [
        ("A", NATIVE, True),
        ("A", KERNEL, True),
    ]
    assert "| A | 1.000 (1/1) | 1.000 (1/1) | 1/1 |" in list(markdown(results))


async def test_a_problem_that_got_no_answer_has_not_passed_and_says_why() -> None:
    results = await run(Fake("A", fails=frozenset({"t/1"})), problems=(PROBLEM,))

    assert not any(row.is_passed for row in results.problems)
    assert all("gave up" in row.error for row in results.problems)


async def test_problems_without_a_sandbox_are_not_asked_at_all() -> None:
    driver = Fake("A")

    results = await run(driver, no_sandbox="no jail", problems=(PROBLEM,))

    assert "programming problem" not in {kind for _, kind in driver.done}
    assert results.problems == []
    assert any("no jail" in note for note in results.notes)


def test_a_run_that_was_interrupted_says_so() -> None:
    results = Results(skipped={"autogen": "not installed"})

    assert "Interrupted" in "\n".join(markdown(results))
    assert "Interrupted" in page(results)
    assert "not installed" in page(results)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b"])
def test_what_models_say_cannot_break_the_page(text: str) -> None:
    assert text not in page(Results(skipped={"x": text}))
