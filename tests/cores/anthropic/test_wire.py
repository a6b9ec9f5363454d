"""Conversations as they are written for the Messages API."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from aios_core.cores.anthropic.answer_format import FREE
from aios_core.cores.anthropic.turns import turns_of
from aios_core.cores.anthropic.wire import message_body
from aios_core.errors import InvalidRequest
from aios_core.messages import Message, ToolCall, parse_messages

from .rig import ask

PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjQ="


def turns(*messages: Any) -> list[dict[str, Any]]:
    return turns_of(parse_messages(list(messages))).messages


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def call(id_: str, arguments: str = "{}") -> ToolCall:
    return ToolCall(id_, "add", arguments)


def test_the_results_of_one_turn_are_in_one_user_turn_before_anything_else() -> None:
    calls = (call("a"), call("b"))
    sent = turns(
        Message("user", "go"),
        Message("assistant", "", tool_calls=calls),
        Message("tool", "1", tool_call_id="a"),
        Message("user", "hurry"),
        Message("tool", "2", tool_call_id="b"),
    )

    assert [turn["role"] for turn in sent] == ["user", "assistant", "user"]
    assert sent[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "b", "content": "2"},
        text("hurry"),
    ]


def test_turns_of_one_role_are_joined() -> None:
    assert turns(Message("user", "a"), Message("user", "b")) == [
        {"role": "user", "content": [text("a"), text("b")]}
    ]


def test_system_messages_go_before_the_conversation_in_their_order() -> None:
    sent = turns_of(
        parse_messages(
            [
                {"role": "system", "content": "one"},
                {"role": "user", "content": "hi"},
                {"role": "developer", "content": "two"},
            ]
        )
    )

    assert sent.system == [text("one"), text("two")]
    assert len(sent.messages) == 1


def test_a_system_message_alone_is_asked_as_a_user() -> None:
    sent = turns_of(parse_messages([{"role": "system", "content": "Write a poem."}]))

    assert sent.system == []
    assert sent.messages == [{"role": "user", "content": [text("Write a poem.")]}]


def test_blank_texts_are_left_out() -> None:
    sent = turns(
        Message("user", "go"), Message("assistant", " \n"), Message("user", parts=(text(""),))
    )

    assert sent == [{"role": "user", "content": [text("go")]}]


def test_an_answer_to_continue_does_not_end_in_blanks() -> None:
    assert turns(Message("user", "go"), Message("assistant", "It is "))[-1] == {
        "role": "assistant",
        "content": [text("It is")],
    }


def test_images_and_files_become_blocks() -> None:
    data = base64.b64encode(b"plain").decode()
    parts = (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": "https://example.org/a.jpg"},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}"}},
        {"type": "file", "file": {"file_id": "file_1", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": f"data:text/csv;base64,{data}"}},
    )
    image, linked, pdf, stored, csv = turns(Message("user", parts=parts))[0]["content"]

    assert image["source"] == {"type": "base64", "media_type": "image/png", "data": PNG}
    assert linked["source"] == {"type": "url", "url": "https://example.org/a.jpg"}
    assert pdf["source"] == {"type": "base64", "media_type": "application/pdf", "data": PDF}
    assert stored["source"] == {"type": "file", "file_id": "file_1"}
    assert stored["title"] == "a.pdf"
    assert csv["source"] == {"type": "text", "media_type": "text/plain", "data": "plain"}


def test_blocks_of_the_api_itself_stay_as_they_are() -> None:
    block = {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}}

    assert turns(Message("user", parts=(block,)))[0]["content"] == [block]


def test_a_tool_result_may_hold_an_image_and_an_error() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    sent = turns(
        Message("assistant", tool_calls=(call("a"),)),
        Message("tool", tool_call_id="a", parts=(text("see"), image), extra={"is_error": True}),
    )
    result = sent[1]["content"][0]

    assert result["is_error"] is True
    assert [block["type"] for block in result["content"]] == ["text", "image"]


@pytest.mark.parametrize("arguments", ["{broken", "[1]", '"text"'])
def test_arguments_that_are_no_object_are_shown_to_the_model(arguments: str) -> None:
    sent = turns(Message("assistant", tool_calls=(call("a", arguments),)))

    assert sent[0]["content"][0]["input"] == {"unparsed": arguments}


def test_ids_of_other_providers_are_written_alike_in_calls_and_results() -> None:
    sent = turns(
        Message("assistant", tool_calls=(call("functions.add:0"),)),
        Message("tool", "1", tool_call_id="functions.add:0"),
    )

    assert sent[0]["content"][0]["id"] == sent[1]["content"][0]["tool_use_id"] == "functions_add_0"


def test_thoughts_without_a_signature_are_not_sent() -> None:
    thinking = ({"type": "thinking", "thinking": "hm"}, {"type": "reasoning.text", "text": "x"})
    sent = turns(Message("assistant", "Hi.", reasoning="hm", thinking=thinking))

    assert sent[0]["content"] == [text("Hi.")]


def test_an_answer_that_was_changed_is_not_sent_as_it_came() -> None:
    kept = [text("old")]
    sent = turns(Message("assistant", "new", extra={"anthropic_content": kept}))

    assert sent[0]["content"] == [text("new")]


def test_tools_that_were_called_are_named_if_none_are_offered() -> None:
    request = ask([Message("user", "go"), Message("assistant", tool_calls=(call("a"),))])
    body = message_body(request, "m", max_tokens=9, form=FREE, cache_time=None)

    assert body["tools"] == [{"name": "add", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}


@pytest.mark.parametrize(
    "url", ["data:image/png,plain", "data:;base64,AA==", "data:image/png;base64"]
)
def test_a_data_url_without_base64_is_refused(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}

    with pytest.raises(InvalidRequest, match="allowed: data:<media type>;base64"):
        turns(Message("user", parts=(part,)))


def test_a_file_that_is_neither_pdf_nor_text_is_refused() -> None:
    part = {"type": "file", "file": {"file_data": "data:application/zip;base64,UEs="}}

    with pytest.raises(InvalidRequest, match=r"got application/zip; allowed: application/pdf"):
        turns(Message("user", parts=(part,)))
