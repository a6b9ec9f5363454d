"""Options that the kernel sets on a call cannot be set a second time by another name."""

from __future__ import annotations

from typing import Any

import pytest

from aios_adapters import split_request_options
from aios_core import InvalidRequest, Message, ToolCall, build_llm_request
from aios_core.reserved_options import ARGUMENT_OF, OF_ROUTING, OF_THE_CONNECTION
from aios_core.syscalls import LLMGenerate

HALF = "\ud83d"


@pytest.mark.parametrize(("key", "argument"), ARGUMENT_OF.items())
def test_extra_may_not_say_what_an_argument_says(key: str, argument: str) -> None:
    for spelled in (key, key.upper()):  # some servers read keys in any case
        with pytest.raises(InvalidRequest, match=f"extra: '{spelled}'.*argument '{argument}'"):
            build_llm_request("hi", extra={spelled: 1})


@pytest.mark.parametrize("key", OF_THE_CONNECTION)
def test_extra_may_not_say_how_the_endpoint_is_reached(key: str) -> None:
    with pytest.raises(InvalidRequest, match=f"extra: '{key}' cannot be set by a call: "):
        build_llm_request("hi", extra={key: 1})


@pytest.mark.parametrize("key", sorted(OF_ROUTING))
def test_extra_may_not_let_a_gateway_choose_another_model(key: str) -> None:
    for spelled in (key, key.title()):
        with pytest.raises(InvalidRequest, match=f"extra: '{spelled}'.*argument 'model'"):
            build_llm_request("hi", extra={spelled: ["another/model"]})


def test_a_frameworks_options_for_a_gateways_choice_of_model_are_not_taken_for_a_models_name() -> (
    None
):
    options = split_request_options({"model": "a", "extra_body": {"models": ["b"], "preset": "c"}})

    assert options.arguments == {"model": "a"}
    with pytest.raises(InvalidRequest, match="'models'"):
        build_llm_request("hi", extra=options.extra)


@pytest.mark.parametrize(
    ("extra", "place"),
    [
        ({"options": {"num_predict": 9}}, "extra.options: 'num_predict'.*argument 'max_tokens'"),
        ({"parameters": {"max_new_tokens": 9}}, "extra.parameters: 'max_new_tokens'"),
        ({"litellm_params": {"model": "another"}}, "extra.litellm_params: 'model'"),
        ({"router_settings_override": {"fallbacks": []}}, "router_settings_override: 'fallbacks'"),
        ({"providerOptions": {"gateway": {"models": []}}}, "providerOptions.gateway: 'models'"),
    ],
    ids=str,
)
def test_what_the_kernel_decides_may_not_be_set_further_inside_either(
    extra: dict[str, Any], place: str
) -> None:
    with pytest.raises(InvalidRequest, match=place):
        build_llm_request("hi", extra=extra)


@pytest.mark.parametrize(
    "extra",
    [
        {"options": {"num_ctx": 8_192, "temperature": 0}},
        {"metadata": {"model": "mine", "tools": "none"}},
        {"guided_json": {"properties": {"model": {"type": "string"}}}},
        {"provider": {"order": ["one"]}, "chat_template_kwargs": {"tools": False}},
    ],
    ids=str,
)
def test_settings_further_inside_that_decide_nothing_pass(extra: dict[str, Any]) -> None:
    assert build_llm_request("hi", extra=extra).extra == extra


def test_the_host_of_a_model_is_a_gateways_to_choose() -> None:
    extra = {"provider": {"order": ["one", "two"], "sort": "price"}, "transforms": ["middle-out"]}

    assert build_llm_request("hi", extra=extra).extra == extra


def test_everything_else_in_extra_passes() -> None:
    extra = {"reasoning_effort": "low", "user": "ann", "guided_regex": "a+", "ignore_eos": True}

    assert build_llm_request("hi", extra=extra).extra == extra


def test_a_messages_extra_may_not_replace_its_fields() -> None:
    with pytest.raises(InvalidRequest, match="'content' is a field of its own"):
        Message("user", "harmless", extra={"content": "harmful"})
    with pytest.raises(InvalidRequest, match="'function' is a field of its own"):
        ToolCall("c", "add", "{}", extra={"function": {"name": "drop"}})


def test_a_frameworks_options_become_arguments_wherever_they_stand() -> None:
    said = {
        "max_completion_tokens": 5,
        "model_kwargs": {"presence_penalty": 0.5, "top_a": 1, "max_tokens": 9},
        "extra_body": {"model": "other", "min_p": 0.1, "guided_json": {}, "stream": True},
        "extra_headers": {"x": "y"},
        "stop": None,
    }
    options = split_request_options(said)

    assert options.arguments == {
        "max_tokens": 5, "presence_penalty": 0.5, "model": "other", "min_p": 0.1,
    }  # fmt: skip
    assert options.extra == {"top_a": 1, "guided_json": {}}
    assert options.dropped == {"extra_headers": {"x": "y"}, "stream": True}


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": HALF},
        {"messages": [{"role": "user", "content": "hi", "name": HALF}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": HALF}]}]},
        {"messages": [{"role": "user", "content": "hi", "metadata": {HALF: 1}}]},
        {"tools": [{"name": "add", "parameters": {"description": HALF}}]},
        {"response_format": {"properties": {"a": {"description": HALF}}}},
        {"stop": [HALF]},
        {"model": HALF},
        {"extra": {"user": HALF}},
        {"extra": {"a": [{"b": HALF}]}},
        {"tools": [{"name": "a"}], "tool_choice": {"type": "custom", "custom": {"name": HALF}}},
    ],
)
def test_text_without_bytes_is_refused_wherever_it_stands(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="Unicode"):
        build_llm_request(**{"messages": "hi", **asked})


def test_what_a_caller_changes_later_does_not_reach_the_request() -> None:
    part = {"type": "image_url", "image_url": {"url": "a"}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    made = build_llm_request([{"role": "user", "content": [part]}], tools=[tool])
    part["image_url"] = {"url": "b"}
    tool["function"]["strict"] = True  # type: ignore[index]

    assert made.messages[0].parts[0]["image_url"] == {"url": "a"}
    assert "strict" not in made.tools[0].to_dict()["function"]


def test_a_request_survives_its_saved_form() -> None:
    made = build_llm_request(
        [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]},
            {"role": "assistant", "content": None, "reasoning": "hm", "audio": {"id": "x"}},
        ],
        tools=[{"type": "function", "function": {"name": "f", "strict": True, "x": 1}}],
        response_format={"type": "json_schema", "json_schema": {"schema": {}, "strict": False}},
        temperature=0.5,
        stop=["END"],
        n=2,
    )
    read = LLMGenerate.from_dict(made.to_dict())

    assert read == made
    assert read.to_dict() == made.to_dict()


def test_what_a_clients_extra_body_says_counts_as_on_the_wire() -> None:
    """OpenAI's client lays it over the body; what the kernel decides by is checked as ever."""
    said = {"model": "cheap", "temperature": 0.5, "extra_body": {"model": "dear", "foo": 1}}

    options = split_request_options({**said, "foo": 2, "model_kwargs": {"temperature": 0.9}})

    assert options.arguments == {"model": "dear", "temperature": 0.5}
    assert options.extra == {"foo": 1}
