"""Options of the Responses API become those of a chat completion, or are named."""

from __future__ import annotations

from typing import Any

import pytest

from aios_adapters import as_chat_options

SCHEMA = {"name": "joke", "schema": {"type": "object"}, "strict": True}


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({"max_output_tokens": 9, "user": "u"}, {"max_output_tokens": 9, "user": "u"}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        (
            {"text": {"format": {"type": "json_schema", **SCHEMA}}},
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
        ),
        ({"text": {"format": {"type": "text"}}}, {"response_format": {"type": "text"}}),
        ({"top_logprobs": 2}, {"top_logprobs": 2, "logprobs": True}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"store": False, "truncation": "disabled", "include": None}, {}),
        ({"store": True, "service_tier": "flex"}, {"store": True, "service_tier": "flex"}),
    ],
)
def test_an_option_has_the_name_of_a_chat_completion(
    said: dict[str, Any], options: dict[str, Any]
) -> None:
    assert as_chat_options(said) == (options, ())


def test_what_only_the_service_does_is_named() -> None:
    said = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "truncation": "auto",
        "include": ["reasoning.encrypted_content"],
        "background": True,
        "max_tool_calls": 3,
    }

    options, unused = as_chat_options(said)

    assert options == {"reasoning_effort": "low"}
    assert set(unused) == {
        *("background", "include", "max_tool_calls", "reasoning.summary", "truncation")
    }


def test_options_are_left_as_they_were() -> None:
    said = {"reasoning": {"effort": "low"}, "store": False}

    as_chat_options(said)

    assert said == {"reasoning": {"effort": "low"}, "store": False}
