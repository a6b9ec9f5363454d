"""Money, descendants, groups, and what is left of budgets."""

from __future__ import annotations

import pytest

from aios_core import Budget, Kernel, KernelConfig, Price
from aios_core.cores import ScriptedCore

PRICES = {"m": Price(input_per_million=1_000_000, output_per_million=2_000_000)}


def kernel(**groups: dict[str, object]) -> Kernel:
    config = KernelConfig(prices=PRICES, groups=groups)  # type: ignore[arg-type]
    return Kernel(config, cores=[ScriptedCore("one two three", models=("m",))])


def test_money_is_counted_by_agent_and_by_group() -> None:
    with kernel() as system:
        agent = system.spawn("a", group="research")
        usage = agent.llm.generate("hello").usage

        cost = PRICES["m"].of(usage.input_tokens, usage.output_tokens)
        assert cost > 0
        assert agent.accounting.money == pytest.approx(cost)
        (group,) = system.groups()
        assert (group.name, group.num_agents) == ("research", 1)
        assert group.accounting.money == pytest.approx(cost)


def test_an_agent_that_exited_still_counts_for_its_parent_and_its_group() -> None:
    with kernel() as system:
        parent = system.spawn("parent")
        child = parent.spawn("child")
        grandchild = child.spawn("grandchild")
        used = grandchild.llm.generate("hello").usage
        child.exit()

        assert parent.accounting.num_calls == 0
        total = parent.accounting_with_descendants
        assert (total.num_calls, total.usage) == (1, used)
        parent.exit()
        (group,) = system.groups()
        assert (group.num_agents, group.accounting.usage) == (0, used)


def test_what_is_left_is_the_least_that_a_budget_above_leaves() -> None:
    with kernel(team={"budget": {"tokens": 1_000, "calls": 3}}) as system:
        parent = system.spawn("parent", group="team", budget=Budget(tokens=500, wall_s=60))
        child = parent.spawn("child")
        used = child.llm.generate("hello").usage.total_tokens

        assert child.budget.limits == Budget()
        assert child.budget.left.tokens == 500 - used
        assert parent.budget.spent.tokens == used
        assert parent.budget.reserved.tokens == 0
        assert parent.budget.left.calls == 2
        assert 0 < (parent.budget.left.wall_s or 0) <= 60
        (team,) = system.groups()
        assert team.budget.left.tokens == 1_000 - used


def test_without_limits_nothing_is_left_to_be_told() -> None:
    with kernel() as system:
        assert system.spawn("a").budget.left == Budget()
