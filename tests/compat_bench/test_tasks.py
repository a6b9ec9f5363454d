"""Tasks are data: the same for a seed, with true results and what a right agent does."""

from __future__ import annotations

import pytest

from aios_core.cores.embedding.hashing import hashed
from compat_bench.code_execution import run_plainly
from compat_bench.tasks import KINDS, Outcome, SeenCall, Task, ToolStub, check_kinds, make_tasks


@pytest.fixture
def task() -> Task:
    stub = ToolStub("add", "adds", {"a": "integer"}, ("a",), {'{"a": 1}': "2"})
    call = SeenCall("add", {"a": 1})
    return Task("t", "single tool", ("add one to 1",), (stub,), (call,), ("It is 2.",))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_tasks_that_a_right_agent_gets_right(kind: str) -> None:
    for task in make_tasks([kind], 3):
        outcome = Outcome(list(task.answers), list(task.calls))

        assert outcome.is_right(task)
        assert task.says
        of_members = [t for m in task.members for t in (m.handover, *m.tools)]
        tools = {tool.name: tool for tool in (*task.tools, *of_members) if tool.results}
        for call in task.calls:
            assert tools[call.name].run(call.arguments) != "error: not found"


def test_the_first_agent_of_a_team_has_no_tool_but_the_handovers_to_the_others() -> None:
    for task in make_tasks(["multi-agent chat"], 5):
        assert task.tools == ()
        assert task.calls[0].name in {member.handover.name for member in task.members}
        (chosen,) = [m for m in task.members if m.handover.name == task.calls[0].name]
        assert task.calls[1].name in {tool.name for tool in chosen.tools}


def test_the_document_that_a_retrieval_is_about_is_the_nearest_to_its_query() -> None:
    for task in make_tasks(["retrieval"], 20):
        (query,) = task.calls[0].arguments.values()
        near = max(task.documents, key=lambda text: cosine(hashed(text), hashed(query)))

        assert task.answers == (f"I found: {near}.",)


async def test_the_code_of_a_task_prints_what_the_task_says() -> None:
    for task in make_tasks(["code execution"], 8):
        (call,) = task.calls

        printed = await run_plainly(**call.arguments)

        assert task.answers == (f"The output is: {printed}",)


def test_tasks_are_the_same_for_a_seed_and_others_for_another() -> None:
    kinds = tuple(KINDS)

    assert make_tasks(kinds, 2, seed=1) == make_tasks(kinds, 2, seed=1)
    assert make_tasks(kinds, 2, seed=1) != make_tasks(kinds, 2, seed=2)


def test_a_wrong_call_is_wrong_whatever_is_said(task: Task) -> None:
    assert not Outcome(["It is 2."], [SeenCall("add", {"a": 2})]).is_right(task)
    assert not Outcome(["It is 2."]).is_right(task)


def test_a_wrong_answer_is_wrong_whatever_was_called(task: Task) -> None:
    outcome = Outcome(["It is 3."], list(task.calls))

    assert outcome.has_right_calls(task)
    assert not outcome.is_right(task)


def test_calls_side_by_side_may_come_in_any_order(task: Task) -> None:
    two = (SeenCall("add", {"a": 1}), SeenCall("add", {"a": 5}))
    wanted = Task("t", "parallel tools", task.says, task.tools, two, ("ok",))

    assert Outcome(["ok"], list(reversed(two))).is_right(wanted)


def test_arguments_that_nobody_expected_get_an_error(task: Task) -> None:
    assert task.tools[0].run({"a": 7}) == "error: not found"


def test_a_kind_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no kind of task 'juggling'; have"):
        check_kinds(["juggling"])


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
