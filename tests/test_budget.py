"""Budgets are never overspent, by any agent, on any level, at any concurrency."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from aios_core import Budget, BudgetExceeded, InvalidRequest, KernelBug, Price
from aios_core.budget import BudgetAccount, Cost, Reservation


def test_a_reservation_is_made_on_the_whole_chain_or_not_at_all() -> None:
    grandparent = BudgetAccount("grandparent", Budget(tokens=10))
    parent = BudgetAccount("parent", None, grandparent)
    child = BudgetAccount("child", Budget(tokens=100), parent)
    child.reserve(Cost(tokens=8))

    with pytest.raises(BudgetExceeded) as refusal:
        child.reserve(Cost(tokens=3))

    assert refusal.value.owner == "grandparent"
    assert (refusal.value.limit, refusal.value.committed, refusal.value.requested) == (10, 8, 3)
    assert [account.reserved.tokens for account in child.chain] == [8, 8, 8]


def test_settling_gives_back_what_was_not_needed() -> None:
    account = BudgetAccount("a", Budget(tokens=10))
    account.reserve(Cost(tokens=10, calls=1)).settle(Cost(tokens=4, calls=1))

    assert (account.spent.tokens, account.spent.calls) == (4, 1)
    assert (account.reserved.tokens, account.reserved.calls) == (0, 0)
    assert account.tokens_left() == 6


def test_settling_twice_changes_nothing() -> None:
    account = BudgetAccount("a", Budget(tokens=10))
    reservation = account.reserve(Cost(tokens=5))
    reservation.settle(Cost(tokens=5))
    reservation.settle(Cost(tokens=5))

    assert account.spent.tokens == 5
    account.check()


def test_the_truth_is_booked_even_if_it_is_more_than_was_reserved() -> None:
    account = BudgetAccount("a", Budget(tokens=10))
    account.reserve(Cost(tokens=5)).settle(Cost(tokens=12))

    assert account.tokens_left() == 0
    with pytest.raises(BudgetExceeded):
        account.reserve(Cost(tokens=1))


def test_what_is_left_is_the_least_of_the_chain() -> None:
    parent = BudgetAccount("parent", Budget(tokens=7, money=0.5))
    child = BudgetAccount("child", Budget(tokens=9), parent)

    assert child.tokens_left() == 7
    assert child.money_left() == 0.5
    assert BudgetAccount("free").tokens_left() is None


def test_a_wall_time_limit_alone_costs_no_reservation_checks() -> None:
    assert not BudgetAccount("a", Budget(wall_s=5)).is_limited
    assert BudgetAccount("b", None, BudgetAccount("a", Budget(calls=5))).is_limited


@pytest.mark.parametrize("field", ["tokens", "money", "calls", "wall_s"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_a_bad_budget_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"budget {field}"):
        Budget(**{field: value})  # type: ignore[arg-type]


def test_a_broken_book_is_found() -> None:
    account = BudgetAccount("a")
    account.reserved.tokens = -1

    with pytest.raises(KernelBug, match="negative"):
        account.check()


@given(
    st.builds(Price, st.floats(0, 1e6), st.floats(0, 1e6)),
    st.floats(0, 100),
    st.integers(0, 1_000),
    st.integers(1, 100_000),
)
def test_what_is_affordable_is_paid_for(
    price: Price, money: float, prompt: int, output: int
) -> None:
    affordable = price.affordable(money, prompt, output)

    assert 1 <= affordable <= output
    assert affordable == 1 or price.of(prompt, affordable) <= money
    if affordable < output and price.of(prompt, 1) <= money:
        assert price.of(prompt, affordable + 2) > money, "and no less than could be"


COSTS = st.builds(
    Cost,
    tokens=st.integers(0, 30),
    money=st.integers(0, 30).map(lambda n: n / 8),  # exact in binary
    calls=st.integers(0, 1),
)
LIMITS: Any = st.builds(
    Budget,
    tokens=st.none() | st.integers(0, 60),
    money=st.none() | st.integers(0, 60).map(lambda n: n / 8),
    calls=st.none() | st.integers(0, 4),
)


class Family(RuleBasedStateMachine):
    """A tree of accounts on which calls reserve and settle in any order."""

    accounts: Bundle[BudgetAccount] = Bundle("accounts")
    calls: Bundle[tuple[BudgetAccount, Reservation, Cost]] = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[BudgetAccount] = []

    @rule(target=accounts, limits=LIMITS)
    def head(self, limits: Budget) -> BudgetAccount:
        return self._add(BudgetAccount("head", limits))

    @rule(target=accounts, parent=accounts, limits=LIMITS)
    def child(self, parent: BudgetAccount, limits: Budget) -> BudgetAccount:
        return self._add(BudgetAccount("child", limits, parent))

    @rule(target=calls, account=accounts, cost=COSTS)
    def reserve(self, account: BudgetAccount, cost: Cost) -> Any:
        before = [repr(a) for a in self.all]
        try:
            return (account, account.reserve(cost), cost)
        except BudgetExceeded:
            assert [repr(a) for a in self.all] == before
            return multiple()

    @rule(call=consumes(calls), share=st.floats(0, 1))
    def settle(self, call: tuple[BudgetAccount, Reservation, Cost], share: float) -> None:
        _, reservation, cost = call
        actual = Cost(int(cost.tokens * share), cost.money * round(share * 8) / 8, cost.calls)
        reservation.settle(actual)
        reservation.settle(cost)

    @invariant()
    def nobody_overspends(self) -> None:
        for account in self.all:
            account.check()
            for resource in ("tokens", "money", "calls"):
                limit = getattr(account.limits, resource)
                committed = getattr(account.spent, resource) + getattr(account.reserved, resource)
                assert limit is None or committed <= limit

    @invariant()
    def a_parent_counts_all_that_its_children_do(self) -> None:
        for account in self.all:
            below = [a for a in self.all if account in a.chain[1:2]]
            assert account.spent.tokens >= sum(a.spent.tokens for a in below)
            assert account.reserved.tokens >= sum(a.reserved.tokens for a in below)

    def _add(self, account: BudgetAccount) -> BudgetAccount:
        self.all.append(account)
        return account


TestFamily = Family.TestCase
TestFamily.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
