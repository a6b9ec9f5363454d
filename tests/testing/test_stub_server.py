"""The stub of a provider's server answers as it is asked: in a stream, or as a whole."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from aios_core import ToolCall
from aios_core.testing.stub_server import TIMEOUT_S, Answer, StubServer

HI = {"model": "stub", "messages": [{"role": "user", "content": "hi there"}]}


def ask(server: StubServer, body: dict[str, Any], path: str = "chat/completions") -> Any:
    """The status, the kind of content and the content."""
    place = urlsplit(server.base_url)
    connection = HTTPConnection(place.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("POST", f"{place.path}/{path}", json.dumps(body))
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("said", [{}, {"stream": False}, {"stream": None}])
def test_who_does_not_ask_for_a_stream_gets_a_whole_answer(said: dict[str, Any]) -> None:
    with StubServer(Answer("hello to you")) as server:
        status, kind, content = ask(server, {**HI, **said})

    answer = json.loads(content)
    assert (status, kind, answer["object"]) == (200, "application/json", "chat.completion")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello to you"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


def test_who_asks_for_a_stream_gets_one() -> None:
    with StubServer(Answer("hello to you")) as server:
        _, kind, content = ask(server, {**HI, "stream": True})

    assert kind == "text/event-stream"
    assert content.endswith(b"data: [DONE]\n\n")


def test_a_whole_answer_holds_its_calls() -> None:
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "add", '{"a": 2}'))
    with StubServer(Answer(tool_calls=calls)) as server:
        *_, content = ask(server, HI)

    (choice,) = json.loads(content)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    told = [(call["id"], call["function"]["arguments"]) for call in choice["message"]["tool_calls"]]
    assert told == [("c1", '{"a": 1}'), ("c2", '{"a": 2}')]


def test_a_whole_answer_keeps_to_the_limit() -> None:
    with StubServer(Answer("one two three")) as server:
        *_, content = ask(server, {**HI, "max_tokens": 2})

    (choice,) = json.loads(content)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", "length")


def test_a_prompt_gets_a_text() -> None:
    with StubServer(Answer("and so on")) as server:
        *_, content = ask(server, {"model": "stub", "prompt": "once"}, "completions")

    answer = json.loads(content)
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "and so on")


def test_a_whole_answer_can_go_wrong_too() -> None:
    script = [
        Answer("a b", then="error"),
        Answer("a b", then="cut", after=1),
        Answer(then="garbage"),
    ]
    with StubServer(script) as server:
        failed, cut, garbage = (ask(server, HI) for _ in script)

    assert failed[0] == 500
    (choice,) = json.loads(cut[2])["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a ", None)
    with pytest.raises(ValueError, match="utf-8"):
        json.loads(garbage[2])
