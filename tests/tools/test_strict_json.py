"""Strict JSON accepts plain JSON and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.tools.strict_json import NotJSON, dump, parse, plain

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("NaN", "NaN is not a JSON number"),
        ('{"x": -Infinity}', "-Infinity"),
        ("1e999", "too large"),
        (r'"\ud800"', "lone surrogate"),
        (r'{"\udfff": 1}', "lone surrogate"),
        ('{"x": 1, "y": {"z": 1, "z": 2}}', r"\['z'\] occur more than once"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100 + "]" * 100, "nested deeper"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5_000, "not JSON"),
        ("[" + "1," * 600 + "1]", "at most 1,000"),
    ],
)
def test_what_others_let_pass_is_refused(text: str, told: str) -> None:
    limit = 1_000 if told.startswith("at most") else 1 << 20
    with pytest.raises(NotJSON, match=told):
        parse(text, limit)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {"b": float("nan")}]}, "a[1].b"),
        ({"a": {1: 2}}, "a"),
        ([b"x"], "[0]"),
        ({"a": "\ud800"}, "a"),
        ({"s": {1, 2}}, "s"),
    ],
)
def test_a_value_that_is_no_json_is_refused_with_its_place(value: Any, path: str) -> None:
    with pytest.raises(NotJSON) as caught:
        plain(value)
    assert caught.value.path == path


@given(VALUES)
def test_what_is_plain_comes_back_as_it_was(value: Any) -> None:
    assert parse(dump(plain(value)), 1 << 20) == value


def test_a_plain_copy_shares_nothing_with_the_original() -> None:
    original = {"a": [1]}
    copy = plain(original)
    original["a"].append(2)
    assert copy == {"a": [1]}


def test_equal_values_give_equal_bytes() -> None:
    assert dump({"b": 1, "a": 2}) == dump({"a": 2, "b": 1}) == b'{"a":2,"b":1}'
