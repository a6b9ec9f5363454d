"""Where a KV image should lie, as data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.context.placement import DROP, ImageView, Move, Rates, cheapest_target, plan_moves
from aios_core.snapshot import Tier

IMAGE = ImageView(
    key="k",
    tier=Tier.DEVICE,
    num_tokens=1_000,
    num_bytes=1_000_000,
    last_used=0,
    is_suspended=True,
    may_drop=True,
)


def test_an_image_moves_one_tier_out_while_nothing_is_measured() -> None:
    assert cheapest_target(IMAGE, Rates()) is Tier.HOST
    assert cheapest_target(replace(IMAGE, tier=Tier.HOST), Rates()) is Tier.DISK


@pytest.mark.parametrize(
    ("prefill", "copy", "target"),
    [
        (1_000.0, 10e6, Tier.HOST),  # compute 1 s, swap 0.2 s
        (10_000.0, 10e6, DROP),  # compute 0.1 s, swap 0.2 s
    ],
)
def test_the_cheaper_of_swapping_and_computing_again_is_chosen(
    prefill: float, copy: float, target: Tier | None
) -> None:
    assert cheapest_target(IMAGE, Rates(prefill, host_bytes_per_s=copy)) is target


def test_what_cannot_be_computed_again_exactly_is_never_dropped() -> None:
    precious = replace(IMAGE, may_drop=False)
    rates = Rates(1e9, 1.0, 1.0)

    assert cheapest_target(precious, rates) is Tier.HOST
    assert cheapest_target(replace(precious, tier=Tier.DISK), rates) is Tier.DISK


def test_the_way_out_of_the_disk_is_to_be_dropped() -> None:
    assert cheapest_target(replace(IMAGE, tier=Tier.DISK), Rates()) is DROP


def test_idle_contexts_go_before_suspended_calls() -> None:
    idle_old = replace(IMAGE, key="idle old", is_suspended=False, last_used=1)
    idle_new = replace(IMAGE, key="idle new", is_suspended=False, last_used=4)
    call_old = replace(IMAGE, key="call old", last_used=2)
    call_new = replace(IMAGE, key="call new", last_used=3)

    moves = plan_moves([call_old, idle_new, call_new, idle_old], Tier.DEVICE, 1 << 40, Rates())

    assert [move.key for move in moves] == ["idle old", "idle new", "call new", "call old"]


def test_no_more_is_moved_than_must_be() -> None:
    images = [replace(IMAGE, key=n, last_used=n) for n in range(5)]

    assert len(plan_moves(images, Tier.DEVICE, 1_000_001, Rates())) == 2
    assert plan_moves(images, Tier.DEVICE, 0, Rates()) == []
    assert plan_moves(images, Tier.HOST, 1 << 40, Rates()) == []


def test_an_image_that_must_stay_on_disk_does_not_stand_in_the_way_of_one_that_need_not() -> None:
    stays = replace(IMAGE, key="stays", tier=Tier.DISK, last_used=2, may_drop=False)
    goes = replace(IMAGE, key="goes", tier=Tier.DISK, last_used=1)

    assert plan_moves([stays, goes], Tier.DISK, 1, Rates()) == [Move("goes", DROP)]


@given(
    sizes=st.lists(st.integers(1, 100), max_size=20),
    tier=st.sampled_from(Tier),
    excess=st.integers(-10, 500),
    rates=st.builds(
        Rates,
        *[st.none() | st.floats(1, 1e9) for _ in range(3)],
    ),
    may_drop=st.booleans(),
)
def test_a_plan_frees_the_excess_or_all_that_there_is(
    sizes: list[int], tier: Tier, excess: int, rates: Rates, may_drop: bool
) -> None:
    images = [
        replace(IMAGE, key=n, tier=tier, num_bytes=size, last_used=n, may_drop=may_drop)
        for n, size in enumerate(sizes)
    ]

    moves = plan_moves(images, tier, excess, rates)

    freed = sum(sizes[move.key] for move in moves)  # type: ignore[call-overload]
    movable = 0 if tier is Tier.DISK and not may_drop else sum(sizes)
    assert freed >= min(excess, movable)
    assert len({move.key for move in moves}) == len(moves)
    assert all(move.target is None or move.target > tier for move in moves)
    assert may_drop or all(move.target is not None for move in moves)
