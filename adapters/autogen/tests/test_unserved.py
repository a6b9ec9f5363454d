"""A provider's class that no patch serves is named once, when it is used, with what to do."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
from agent_framework import Agent, BaseChatClient, ChatResponse, Message
from agent_framework.openai import OpenAIChatCompletionClient as FrameworkClient
from autogen import AssistantAgent
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    ModelFamily,
    ModelInfo,
    RequestUsage,
    UserMessage,
)
from autogen_ext.models.cache import ChatCompletionCache
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient
from openai.types.chat import ChatCompletion

import aios_core
from aios_core import Kernel
from autogen_aios import AIOSChatCompletionClient
from autogen_aios.agent_framework import AIOSChatClient

HI = [UserMessage(content="hi", source="user")]
INFO = ModelInfo(
    vision=False,
    function_calling=False,
    json_output=False,
    structured_output=False,
    family=ModelFamily.UNKNOWN,
)


def anthropic_client() -> type[ChatCompletionClient]:
    """A class as a provider's package would define it, from now on."""

    class AnthropicChatCompletionClient(ChatCompletionClient):
        component_type = "model"

        async def create(self, *_: Any, **__: Any) -> CreateResult:
            usage = RequestUsage(1, 1)
            return CreateResult(finish_reason="stop", content="native", usage=usage, cached=False)

        async def create_stream(
            self, *_: Any, **__: Any
        ) -> AsyncGenerator[str | CreateResult, None]:
            yield "native"
            yield await self.create()

        async def close(self) -> None: ...
        def actual_usage(self) -> RequestUsage:
            return RequestUsage(0, 0)

        def total_usage(self) -> RequestUsage:
            return RequestUsage(0, 0)

        def count_tokens(self, *_: Any, **__: Any) -> int:
            return 0

        def remaining_tokens(self, *_: Any, **__: Any) -> int:
            return 0

        @property
        def capabilities(self) -> ModelInfo:
            return INFO

        @property
        def model_info(self) -> ModelInfo:
            return INFO

    return AnthropicChatCompletionClient


BEFORE = anthropic_client()


class GeminiChatClient(BaseChatClient[Any]):
    """Looks like a provider's client of Agent Framework."""

    def _inner_get_response(self, **_: Any) -> Any:
        async def answer() -> ChatResponse:
            return ChatResponse(messages=[Message("assistant", ["native"])])

        return answer()


@pytest.fixture(params=["substitute", "passthrough"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    aios_core.install(["agent_framework", "autogen"], mode=request.param)
    yield
    aios_core.uninstall()


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [text.partition(" ")[0] for text in said if "past the kernel" in text]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_client_that_is_not_served_is_named_once(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = (BEFORE if when == "before" else anthropic_client())()

    assert (await client.create(HI)).content == "native"
    assert "native" in [item async for item in client.create_stream(HI)]
    await client.create(HI)

    assert names(caplog) == ["AnthropicChatCompletionClient"]
    assert "use OpenAIChatCompletionClient or autogen_aios" in caplog.text


@pytest.mark.usefixtures("installed")
async def test_a_client_of_agent_framework_that_is_not_served_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        assert (await Agent(GeminiChatClient(), name="a").run("hi")).text == "native"

    assert names(caplog) == ["GeminiChatClient"]


class Mine:
    """A client that a program of classic AutoGen brings along."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.model = config["model"]

    def create(self, params: dict[str, Any]) -> ChatCompletion:
        said = {"role": "assistant", "content": f"native to {len(params['messages'])}"}
        choice = {"index": 0, "finish_reason": "stop", "message": said}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": self.model}
        return ChatCompletion.model_validate({**answer, "choices": [choice]})

    def message_retrieval(self, response: ChatCompletion) -> list[str]:
        return [choice.message.content or "" for choice in response.choices]

    def cost(self, _: ChatCompletion) -> float:
        return 0.0

    @staticmethod
    def get_usage(_: ChatCompletion) -> dict[str, Any]:
        return {}


class Inherited(Mine):
    """Takes over how another one asks."""


@pytest.mark.parametrize("mode", ["substitute", "passthrough"])
def test_a_client_that_a_program_of_classic_registers_is_named_once_when_it_is_asked(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = vars(Mine)["create"]
    aios_core.install("autogen_classic", mode=mode)  # type: ignore[arg-type]

    def bot(kind: type[Mine]) -> AssistantAgent:
        entry = {"model": "m", "model_client_cls": kind.__name__}
        agent = AssistantAgent("a", llm_config={"config_list": [entry], "cache_seed": None})
        agent.register_model_client(kind)  # type: ignore[arg-type] # classic annotates an instance
        return agent

    bots = [bot(Mine), bot(Mine), bot(Inherited)]
    assert names(caplog) == [], "nobody was asked yet"
    said = [one.generate_reply([{"role": "user", "content": "hi"}]) for one in bots * 2]
    aios_core.uninstall()

    assert [str(one).partition(" ")[0] for one in said] == ["native"] * 6
    assert names(caplog) == ["Mine", "Inherited"]
    assert "AIOSModelClient" in caplog.text
    assert vars(Mine)["create"] is own


@pytest.mark.usefixtures("as_default")
async def test_clients_on_the_kernel_and_those_that_only_pretend_are_not_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    aios_core.install(["agent_framework", "autogen"])
    replay = ReplayChatCompletionClient(["native"] * 3)
    for client in (
        AIOSChatCompletionClient(),
        OpenAIChatCompletionClient(model="gpt-4o"),
        replay,
        ChatCompletionCache(replay),
    ):
        await client.create(HI)
    for framework_client in (AIOSChatClient(), FrameworkClient(model="gpt-4o")):
        await framework_client.get_response([Message("user", ["hi"])])

    aios_core.uninstall()

    assert names(caplog) == []


async def test_nobody_is_named_where_nothing_is_installed(
    caplog: pytest.LogCaptureFixture, kernel: Kernel
) -> None:
    del kernel
    before = ChatCompletionClient.__dict__.get("__init_subclass__")
    aios_core.install("autogen")
    aios_core.uninstall()

    await BEFORE().create(HI)

    assert names(caplog) == []
    assert ChatCompletionClient.__dict__.get("__init_subclass__") is before
