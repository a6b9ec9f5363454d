"""Identities: stable for a name, never shared by two that are alive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core import InvalidRequest
from aios_core.identity import Identities


def test_an_identity_is_the_group_and_the_name() -> None:
    assert Identities().claim("reader", "research") == "research/reader"


def test_a_child_is_named_below_its_parent() -> None:
    assert Identities().claim("helper", "research", "research/reader") == "research/reader/helper"


def test_the_next_agent_of_a_name_takes_over_what_the_former_left() -> None:
    identities = Identities()
    first = identities.claim("reader", "research")
    identities.release(first)

    assert identities.claim("reader", "research") == first


def test_namesakes_that_are_alive_are_numbered_the_lowest_free_first() -> None:
    identities = Identities()
    names = [identities.claim("reader", "g") for _ in range(3)]
    assert names == ["g/reader", "g/reader~2", "g/reader~3"]

    identities.release("g/reader~2")

    assert identities.claim("reader", "g") == "g/reader~2"
    assert identities.claim("reader", "g") == "g/reader~4"


def test_names_cannot_pretend_to_be_paths_or_numbers() -> None:
    identities = Identities()

    assert identities.claim("a/b~2", "x/y") == "x%2Fy/a%2Fb%7E2"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 9)), max_size=60))
def test_no_two_alive_share_one(steps: list[tuple[str, bool, int]]) -> None:
    identities, alive = Identities(), list[str]()
    for name, is_claim, index in steps:
        if is_claim or not alive:
            claimed = identities.claim(name, "g")
            assert claimed not in alive
            alive.append(claimed)
        else:
            identities.release(alive.pop(index % len(alive)))


def test_an_identity_of_an_earlier_life_is_taken_back_unless_somebody_has_it() -> None:
    identities = Identities()

    assert identities.claim("reader", "g", wanted="g/reader~3") == "g/reader~3"
    assert identities.claim("reader", "g", wanted="g/reader~3") == "g/reader", "the lowest free"
    assert identities.claim("reader", "g") == "g/reader~2"
    assert identities.claim("reader", "g", wanted="g/reader~2") == "g/reader~4"
    assert identities.claim("aid", "g", wanted="g/boss~2/aid") == "g/boss~2/aid"
    identities.release("g/reader~2")
    assert identities.claim("reader", "g", wanted="g/reader~2") == "g/reader~2"


@pytest.mark.parametrize(
    "wanted", ["", "reader", "g/other", "g/reader~0", "g/reader~999999", "g/reader~x", "/reader"]
)
def test_an_identity_that_no_agent_of_the_name_had_is_refused(wanted: str) -> None:
    with pytest.raises(InvalidRequest, match="allowed: one of an agent named 'reader'"):
        Identities().claim("reader", "g", wanted=wanted)
