"""The process table: families inherit, crowds are refused, the dead leave nothing."""

from __future__ import annotations

from typing import Any

import pytest

from aios_core import (
    Budget,
    BudgetExceeded,
    InvalidRequest,
    KernelBug,
    Message,
    NoSuchObject,
    ProcessState,
    RunawayStopped,
)
from aios_core.budget import Cost
from aios_core.process import AgentProcess, ProcessTable, RunawayGuard
from aios_core.syscalls import LLMGenerate

HELLO = LLMGenerate((Message("user", "hello"),))
OTHER = LLMGenerate((Message("user", "other"),))


def spawn(table: ProcessTable, name: str = "a", now: float = 0.0, **settings: Any) -> AgentProcess:
    return table.spawn(name, now=now, **settings)


def test_pids_are_never_reused() -> None:
    table = ProcessTable()
    first = spawn(table)
    table.remove(first)

    assert spawn(table).pid > first.pid


def test_a_child_inherits_group_and_priority_and_spends_its_parents_budget() -> None:
    table = ProcessTable()
    parent = spawn(table, group="research", priority=3, budget=Budget(tokens=5))
    child = spawn(table, parent=parent.pid)

    assert (child.group, child.priority) == (parent.group, 3)
    assert child.budget.chain == (child.budget, *parent.budget.chain)
    assert child.depth == 2


def test_a_childs_own_settings_win() -> None:
    table = ProcessTable()
    parent = spawn(table, priority=3)

    assert spawn(table, parent=parent.pid, priority=0).priority == 0


def test_a_family_is_listed_children_first() -> None:
    table = ProcessTable()
    head = spawn(table, "head")
    child = spawn(table, "child", parent=head.pid)
    spawn(table, "grandchild", parent=child.pid)
    spawn(table, "second", parent=head.pid)

    assert [p.name for p in head.family()] == ["grandchild", "child", "second", "head"]


@pytest.mark.parametrize(
    ("own", "inherited", "ends_at"), [(5, None, 15), (None, 8, 8), (5, 8, 8), (1, 100, 11)]
)
def test_the_family_ends_with_the_first_wall_time(
    own: float | None, inherited: float | None, ends_at: float
) -> None:
    table = ProcessTable()
    parent = spawn(table, now=0.0, budget=Budget(wall_s=inherited))
    child = spawn(table, now=10.0, parent=parent.pid, budget=Budget(wall_s=own))

    assert child.ends_at == ends_at


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float) -> None:
    with pytest.raises(InvalidRequest, match="weight"):
        spawn(ProcessTable(), weight=weight)


def test_a_nameless_agent_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="name"):
        spawn(ProcessTable(), "")


def test_an_unknown_parent_is_refused_and_nothing_is_added() -> None:
    table = ProcessTable()

    with pytest.raises(NoSuchObject, match="no agent 9"):
        spawn(table, parent=9)
    assert len(table) == 0


def test_a_parent_is_given_by_its_pid() -> None:
    table = ProcessTable()
    head = spawn(table)

    with pytest.raises(InvalidRequest, match=r"allowed: a pid \(agent\.pid\)"):
        table.spawn("child", now=0.0, parent=head)  # type: ignore[arg-type]


def test_too_deep_and_too_many_are_refused() -> None:
    table = ProcessTable(RunawayGuard(max_depth=2, max_agents=3))
    head = spawn(table)
    child = spawn(table, parent=head.pid)

    with pytest.raises(RunawayStopped, match="max_depth"):
        spawn(table, parent=child.pid)
    spawn(table)
    with pytest.raises(RunawayStopped, match="max_agents"):
        spawn(table)


def test_repeating_oneself_is_counted_in_a_row() -> None:
    table = ProcessTable(RunawayGuard(max_repeats=2))
    agent = spawn(table)
    for request in (HELLO, HELLO, OTHER, HELLO, HELLO):
        table.guard_call(agent, request)

    with pytest.raises(RunawayStopped, match="same call 3 times"):
        table.guard_call(agent, HELLO)
    table.guard_call(agent, OTHER)


def test_a_refused_call_is_not_counted() -> None:
    table = ProcessTable(RunawayGuard(max_calls=1))
    agent = spawn(table)
    table.guard_call(agent, HELLO)
    for _ in range(3):
        with pytest.raises(RunawayStopped, match="max_calls"):
            table.guard_call(agent, OTHER)

    assert agent.accounting.num_calls == 1


def test_without_a_guard_nothing_is_refused() -> None:
    table = ProcessTable(RunawayGuard(None, None, None, None))
    agent = spawn(table)
    for _ in range(1_000):
        table.guard_call(agent, HELLO)
    for _ in range(50):
        agent = spawn(table, parent=agent.pid)

    assert agent.depth == 51


def test_the_dead_leave_no_trace() -> None:
    table = ProcessTable()
    head = spawn(table)
    child = spawn(table, parent=head.pid)
    table.remove(child)

    assert child.state is ProcessState.EXITED
    assert not head.children
    with pytest.raises(NoSuchObject):
        table.get(child.pid)
    table.check()


@pytest.mark.parametrize("what", ["children", "live_calls"])
def test_dying_with_something_left_is_a_bug(what: str) -> None:
    table = ProcessTable()
    head = spawn(table)
    if what == "children":
        spawn(table, parent=head.pid)
    else:
        head.live_calls.add(1)

    with pytest.raises(KernelBug, match="children or calls"):
        table.remove(head)


def test_a_process_says_who_it_is() -> None:
    assert repr(spawn(ProcessTable(), "ann", group="g")) == "<AgentProcess 1 'ann' of 'g': active>"


def test_a_child_in_another_group_counts_against_both_groups() -> None:
    table = ProcessTable()
    table.add_group("research", budget=Budget(calls=1))
    parent = table.spawn("parent", now=0.0)
    child = table.spawn("child", now=0.0, parent=parent.pid, group="research")

    child.budget.reserve(Cost(calls=1))

    assert parent.group.budget.reserved.calls == child.group.budget.reserved.calls == 1
    with pytest.raises(BudgetExceeded, match="group 'research'"):
        child.budget.reserve(Cost(calls=1))
