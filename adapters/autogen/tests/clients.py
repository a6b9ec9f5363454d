"""Clients of OpenAI at a stub server, natively or with a kernel in its place."""

from __future__ import annotations

from typing import Any

from autogen_core.models import (
    UserMessage,
)
from autogen_ext.models.openai import (
    OpenAIChatCompletionClient,
)

from aios_core.testing.stub_server import StubServer

MODEL = "gpt-4o-2024-08-06"
HI = [UserMessage(content="hi", source="user")]
# How an answer is fetched, not what is asked for: the kernel always streams.
FETCHING = ("stream", "stream_options")


def sent(server: StubServer) -> dict[str, Any]:
    body = dict(server.exchanges[-1].body)
    if "max_tokens" in body:  # which of the two an endpoint knows is the core's business
        body["max_completion_tokens"] = body.pop("max_tokens")
    return {key: value for key, value in body.items() if key not in FETCHING}


def client_of(server: StubServer, **settings: Any) -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(
        model=MODEL, base_url=server.base_url, api_key="k", max_retries=0, **settings
    )
