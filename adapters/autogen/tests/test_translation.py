"""Messages, tools and answers keep their meaning on the way to the kernel and back."""

from __future__ import annotations

from typing import Any

import pytest
from autogen_core import FunctionCall, Image
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    SystemMessage,
    UserMessage,
)
from autogen_core.tools import FunctionTool
from PIL import Image as Picture
from pydantic import BaseModel

from aios_core import (
    Completion,
    Delta,
    FinishReason,
    Message,
    ResponseFormat,
    ToolCall,
    Usage,
)
from aios_core.errors import InvalidRequest
from autogen_aios.translation import (
    ThoughtMarks,
    to_messages,
    to_response_format,
    to_result,
    to_tool_choice,
    to_tools,
)

CALL = FunctionCall(id="c1", name="add", arguments='{"a": 1}')
RESULTS = [
    FunctionExecutionResult(content="2", name="add", call_id="c1"),
    FunctionExecutionResult(content="no", name="sub", call_id="c2", is_error=True),
]


class Joke(BaseModel):
    punchline: str


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (SystemMessage(content="be kind"), [Message("system", "be kind")]),
        (UserMessage(content="hi", source="ann"), [Message("user", "hi", name="ann")]),
        (
            UserMessage(content=["a", "b"], source="u"),
            [Message("user", name="u", parts=(text("a"), text("b")))],
        ),
        (AssistantMessage(content="well", source="w"), [Message("assistant", "well")]),
        (
            AssistantMessage(content="well", thought="hm", source="w"),
            [Message("assistant", "well", reasoning="hm")],
        ),
        (
            AssistantMessage(content=[CALL], thought="hm", source="w"),
            [Message("assistant", "hm", (ToolCall("c1", "add", '{"a": 1}'),))],
        ),
        (
            FunctionExecutionResultMessage(content=RESULTS),
            [
                Message("tool", "2", tool_call_id="c1", name="add"),
                Message("tool", "no", tool_call_id="c2", name="sub"),
            ],
        ),
    ],
)
def test_a_message_keeps_its_meaning(said: Any, meant: list[Message]) -> None:
    assert to_messages([said]) == meant


def test_names_of_agents_can_be_left_out() -> None:
    said = UserMessage(content="hi", source="ann")

    assert to_messages([said], with_names=False) == [Message("user", "hi")]


def test_a_picture_is_a_part_between_texts() -> None:
    picture = Image(Picture.new("RGB", (1, 1)))

    (message,) = to_messages([UserMessage(content=["see", picture], source="u")])

    assert message.content == "see"
    assert message.to_dict() == {
        "role": "user",
        "name": "u",
        "content": [text("see"), picture.to_openai_format()],
    }


def test_what_no_message_may_hold_is_refused_by_position_and_name() -> None:
    said = UserMessage.model_construct(content=["see", 1], source="u", type="UserMessage")

    with pytest.raises(InvalidRequest, match="message 1: content of type 'int'"):
        to_messages([UserMessage(content="fine", source="u"), said])


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (
            Completion(
                Message("assistant", "4", reasoning="2 and 2"), FinishReason.STOP, Usage(1, 2), "m"
            ),
            {"content": "4", "thought": "2 and 2", "finish_reason": "stop"},
        ),
        (
            Completion(
                Message("assistant", refusal="I may not."), FinishReason.STOP, Usage(1, 2), "m"
            ),
            {"content": "I may not.", "thought": None},
        ),
        (
            Completion(
                Message("assistant", "so far"), FinishReason.CONTENT_FILTER, Usage(1, 2), "m"
            ),
            {"content": "so far", "finish_reason": "content_filter"},
        ),
    ],
)
def test_an_answer_keeps_its_reasoning_its_refusal_and_why_it_ended(
    completion: Completion, expected: dict[str, Any]
) -> None:
    result = to_result(completion)

    assert {key: getattr(result, key) for key in expected} == expected


def test_log_probabilities_are_autogens() -> None:
    top = {"token": "4", "logprob": -0.1, "bytes": [52]}
    raw = {"content": [{**top, "top_logprobs": [top]}]}
    answer = Message("assistant", "4")
    completion = Completion(answer, FinishReason.STOP, Usage(1, 1), "m", logprobs=raw)

    (said,) = to_result(completion).logprobs or []

    assert (said.token, said.logprob, said.bytes) == ("4", -0.1, [52])
    assert [(one.logprob, one.bytes) for one in said.top_logprobs or []] == [(-0.1, [52])]


def test_a_stream_marks_reasoning_as_autogens_own_clients_do() -> None:
    marks = ThoughtMarks()
    deltas = [Delta(reasoning="2"), Delta(reasoning=" and 2"), Delta("4"), Delta("!")]

    said = [text for delta in deltas for text in marks.texts(delta)]

    assert said == ["<think>2", " and 2", "</think>", "4", "!"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_a_tool_and_its_schema_are_the_same_tool() -> None:
    tool = FunctionTool(add, "Add two numbers.")

    (one,), (other,) = to_tools([tool]), to_tools([tool.schema])

    assert one == other
    assert (one.name, one.description) == ("add", "Add two numbers.")
    assert one.parameters["required"] == ["a", "b"]


@pytest.mark.parametrize("choice", ["auto", "required", "none"])
def test_a_choice_in_words_is_kept(choice: str) -> None:
    assert to_tool_choice(choice, ["add"]) == choice


def test_a_tool_that_must_be_called_is_chosen_by_its_name() -> None:
    tool = FunctionTool(add, "Add two numbers.")

    assert to_tool_choice(tool, ["sub", "add"]) == "add"
    with pytest.raises(InvalidRequest, match=r"\['sub'\]"):
        to_tool_choice(tool, ["sub"])


@pytest.mark.parametrize(
    ("json_output", "raw", "meant"),
    [
        (None, None, None),
        (None, {"type": "json_object"}, ResponseFormat()),
        (True, None, ResponseFormat()),
        (False, {"type": "json_object"}, None),
        (Joke, None, ResponseFormat(Joke.model_json_schema(), "Joke")),
    ],
)
def test_every_way_to_ask_for_json_is_understood(json_output: Any, raw: Any, meant: Any) -> None:
    assert to_response_format(json_output, raw) == meant


def test_an_unknown_json_output_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="json_output: got 7"):
        to_response_format(7)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.TOOL_CALLS, "function_calls"),
    ],
)
def test_an_answer_says_why_it_ended_and_what_it_took(reason: FinishReason, said: str) -> None:
    result = to_result(Completion(Message("assistant", "yes"), reason, Usage(7, 3), "m"))

    assert (result.content, result.finish_reason, result.thought) == ("yes", said, None)
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (7, 3)


def test_text_beside_calls_is_a_thought_and_no_arguments_are_an_empty_object() -> None:
    message = Message("assistant", "let me see", (ToolCall("c1", "now", ""),))

    result = to_result(Completion(message, FinishReason.TOOL_CALLS, Usage(), "m"))

    assert result.content == [FunctionCall(id="c1", name="now", arguments="{}")]
    assert result.thought == "let me see"
