"""The runner: every task on both systems, rows as soon as they are known, failures as results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from compat_bench.page import page
from compat_bench.plain_server import at_once, serve
from compat_bench.records import KERNEL, NATIVE, Results
from compat_bench.runner import Plan, Runner
from compat_bench.sources import Endpoint, OnKernel, Source, costless_kernel
from compat_bench.tables import markdown, tables
from compat_bench.tasks import Outcome, Task, make_tasks

TASKS = tuple(make_tasks(["single tool", "plain talk"], 2))


class Fake:
    """A framework whose agents are always right, but where they are told to fail."""

    kinds = frozenset({"single tool", "plain talk"})

    def __init__(self, name: str, fails: frozenset[str] = frozenset()) -> None:
        self.name = name
        self._fails = fails
        self.systems: list[str] = []

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        self.systems.append(NATIVE if isinstance(source, Endpoint) else KERNEL)
        if task.id in self._fails:
            raise RuntimeError(f"{agent} gave up")
        return Outcome(list(task.answers), list(task.calls))

    async def say(self, source: Source, agent: str) -> None:
        if isinstance(source, OnKernel):
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
    def kernel(self, policy: str) -> Iterator[OnKernel]:
        assert policy == "fair"
        with costless_kernel() as kernel:
            yield kernel


async def run(*drivers: Fake, **settings: Any) -> tuple[Results, list[str], int]:
    results, told, steps = Results(), list[str](), list[None]()
    plan = Plan(drivers, TASKS, (2,), "fair", overhead_calls=3, mixed_agents=2, **settings)
    runner = Runner(plan, Costless(), results, told.append, lambda: steps.append(None))  # type: ignore[arg-type]
    await runner.run()
    assert len(steps) == plan.num_steps()
    return results, told, len(steps)


async def test_every_task_is_done_natively_and_on_the_kernel() -> None:
    results, _, _ = await run(Fake("A"))

    found = results.correctness("A")
    assert (found.native_right, found.kernel_right, found.same) == (4, 4, 4)
    assert results.is_complete


async def test_a_framework_that_fails_is_a_result_and_the_others_go_on() -> None:
    results, _, _ = await run(Fake("A", frozenset({TASKS[0].id})), Fake("B"))

    (error,) = {row.error for row in results.tasks if row.framework == "A" and row.error}
    assert "gave up" in error
    assert results.correctness("A").kernel_right == 3
    assert results.correctness("B").kernel_right == 4


async def test_load_overhead_and_the_mix_have_rows_for_both_systems() -> None:
    results, _, _ = await run(Fake("A"), Fake("B"))

    assert [(row.system, row.agents) for row in results.loads if row.framework == "A"] == [
        (NATIVE, 2),
        (KERNEL, 2),
    ]
    assert {(row.framework, row.system) for row in results.overheads} == {
        (name, system) for name in "AB" for system in (NATIVE, KERNEL)
    }
    assert {row.system for row in results.mixed} == {"each for itself", "one kernel"}


async def test_what_is_known_is_shown_as_tables_markdown_and_a_page() -> None:
    results, _, _ = await run(Fake("A"), Fake("B"))
    results.about = {"model": "none"}

    assert next(table.title for table in tables(results)) == "Answers"
    text = "\n".join(markdown(results))
    assert "| A | 4/4 | 4/4 | 4/4 | 0 |" in text
    shown = page(results)
    assert "<svg" in shown
    assert "http" not in shown.replace("http-equiv", "")  # nothing is fetched
    json.dumps(results.to_dict())


def test_a_run_that_was_interrupted_says_so() -> None:
    results = Results(skipped={"autogen": "not installed"})

    assert "Interrupted" in "\n".join(markdown(results))
    assert "Interrupted" in page(results)
    assert "not installed" in page(results)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b"])
def test_what_models_say_cannot_break_the_page(text: str) -> None:
    assert text not in page(Results(skipped={"x": text}))
