"""Misspelled names: what the message of the error offers instead."""

from __future__ import annotations

from aios_core import NoSuchObject
from aios_core.suggestions import suggest, unknown_name


def test_the_closest_name_is_offered() -> None:
    assert suggest("polcy", ["options", "policy"]) == "did you mean 'policy'?"
    assert suggest("xyz", ["options", "policy"]) == ""


def test_an_unknown_key_is_refused_with_the_closest_one_and_all_others() -> None:
    text = unknown_name("key", "polcy", ["options", "policy"])
    assert text == (
        "no value, because there is no such key; "
        "did you mean 'policy'? the keys here are: options, policy"
    )


def test_a_table_without_options_states_that() -> None:
    assert unknown_name("option", "a", []).endswith("; there are no options here")


def test_a_missing_object_names_the_one_that_was_probably_meant() -> None:
    error = NoSuchObject("tool", "calculatr", ["clock", "calculator"])
    assert str(error) == (
        "no tool 'calculatr'; have ['calculator', 'clock']; did you mean 'calculator'?"
    )


def test_a_missing_object_is_not_compared_with_more_names_than_a_reader_would_look_at() -> None:
    error = NoSuchObject("file", "file-x", [f"file-{n}" for n in range(200)])
    assert "did you mean" not in str(error)
