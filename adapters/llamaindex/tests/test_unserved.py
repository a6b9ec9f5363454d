"""A provider's class that no patch serves is named once, when it is used, with what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, LLMMetadata
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.llms.aios import AIOSLLM
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike

import aios_core
from aios_core.testing.stub_server import Answer, StubServer

HI = [ChatMessage(role="user", content="hi")]


class Anthropic(CustomLLM):
    """Looks like a provider's LLM."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        del prompt, formatted
        return CompletionResponse(text="native")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        del prompt, formatted

        def steps() -> Any:
            yield CompletionResponse(text="native", delta="native")

        return steps()


@pytest.fixture(params=["substitute", "passthrough"])
def installed(request: pytest.FixtureRequest) -> Iterator[str]:
    aios_core.install("llamaindex", mode=request.param)
    yield request.param
    aios_core.uninstall()


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [text.partition(" ")[0] for text in said if "past the kernel" in text]


@pytest.mark.usefixtures("installed")
async def test_an_llm_that_is_not_served_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    assert Anthropic().chat(HI).message.content == "native"
    assert (await Anthropic().acomplete("hi")).text == "native"
    list(Anthropic().stream_chat(HI))

    assert names(caplog) == ["Anthropic"]
    assert "use OpenAI, OpenAILike or llama_index.llms.aios.AIOSLLM" in caplog.text


@pytest.mark.usefixtures("as_default", "installed")
def test_llms_on_the_kernel_and_those_that_only_pretend_are_not_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with StubServer(Answer("native"), models=["gpt-4o"]) as server:
        endpoint = {"model": "gpt-4o", "api_base": server.base_url, "api_key": "k"}
        like = OpenAILike(is_chat_model=True, **endpoint)
        for llm in (AIOSLLM(), OpenAI(**endpoint), like, MockLLM()):
            llm.chat(HI)

    assert names(caplog) == []


def test_nobody_is_named_where_nothing_is_installed(caplog: pytest.LogCaptureFixture) -> None:
    aios_core.install("llamaindex")
    aios_core.uninstall()

    Anthropic().complete("hi")

    assert names(caplog) == []
