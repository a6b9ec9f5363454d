"""The plain server: OpenAI's API, one request at a time, clear refusals."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI

from compat_bench.baseline_server import _parsed, at_once, serve


def test_openais_client_is_answered_streaming_or_not() -> None:
    with serve(at_once, "m") as server:
        client = OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
        asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

        whole = client.chat.completions.create(**asked)
        chunks = list(client.chat.completions.create(**asked, stream=True))
        client.close()

    assert whole.choices[0].message.content == "ok"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "ok"
    assert chunks[-1].usage is not None


def test_calls_side_by_side_are_streamed_one_a_chunk_as_openai_does() -> None:
    function = {"name": "f", "arguments": "{}"}

    def two(_: Mapping[str, Any]) -> dict[str, Any]:
        calls = [{"id": str(n), "type": "function", "function": function} for n in range(2)]
        return {"role": "assistant", "content": "", "tool_calls": calls, "usage": (1, 1)}

    with serve(two, "m") as server, OpenAI(base_url=server.base_url, api_key="none") as client:
        asked: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        chunks = list(client.chat.completions.create(**asked, stream=True))

    per_chunk = [c.choices[0].delta.tool_calls for c in chunks if c.choices]
    assert [[call.index for call in calls] for calls in per_chunk if calls] == [[0], [1]]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "tool_calls"


def test_requests_are_served_one_at_a_time() -> None:
    inside, most = [0], [0]

    def complete(body: Mapping[str, Any]) -> dict[str, Any]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        answer = at_once(body)
        inside[0] -= 1
        return answer

    with serve(complete, "m") as server, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: post(server.base_url, {"messages": []}), range(24)))
        assert len(server.waits_s) == 24

    assert most == [1]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/v1/elsewhere", b"{}", 404), ("/v1/chat/completions", b"{", 400)],
)
def test_what_is_no_completion_request_is_refused(path: str, body: bytes, status: int) -> None:
    with serve(at_once, "m") as server:
        url = server.base_url.removesuffix("/v1") + path
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(url, body), timeout=10)  # noqa: S310
        caught.value.close()

    assert caught.value.code == status


def test_calls_in_hermes_form_become_tool_calls() -> None:
    message = _parsed('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><|end|>', {})

    (call,) = message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("f", {"a": 1})


def test_a_broken_call_stays_the_text_that_it_was() -> None:
    assert _parsed("<tool_call>{oops</tool_call>", {})["content"] == "<tool_call>{oops</tool_call>"


def test_stop_texts_end_the_answer() -> None:
    assert _parsed("one two", {"stop": [" two"]})["content"] == "one"


def post(base_url: str, body: object) -> Any:
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{base_url}/chat/completions", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return json.load(response)
