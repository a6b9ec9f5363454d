"""Tasks are data: the same for a seed, with true results and what a right agent does."""

from __future__ import annotations

import pytest

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
        tools = {tool.name: tool for tool in task.tools}
        for call in task.calls:
            assert tools[call.name].run(call.arguments) != "error: not found"


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
