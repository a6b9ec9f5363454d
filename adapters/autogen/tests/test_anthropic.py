"""AutoGen's Anthropic client on the kernel: it asks and answers as at Anthropic, in both modes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import anthropic
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import (
    AssistantMessage,
    CreateResult,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    ModelFamily,
    SystemMessage,
    UserMessage,
)
from autogen_core.tools import FunctionTool
from autogen_ext.models.anthropic import AnthropicChatCompletionClient

import aios_core
from aios_core import Kernel, KernelConfig, KernelError, set_default_kernel
from aios_core.cores.anthropic.core import AnthropicCore
from aios_core.cores.scripted import ScriptedCore
from aios_core.events import EventKind
from aios_core.messages import Message, ToolCall
from aios_core.testing.event_watcher import EventWatcher
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer, Behavior, Refuse

WIDE: Final = 200_000
CALLS: Final = (
    ToolCall("toolu_1", "add", '{"a": 1, "b": 2}'),
    ToolCall("toolu_2", "add", '{"a": 3, "b": 4}'),
)
THOUGHTS: Final = ({"type": "thinking", "thinking": "one and two", "signature": "c2lnbmVk"},)
FULL: Final = Answer(message=Message("assistant", "See:", tool_calls=CALLS, thinking=THOUGHTS))
CHAT: Final = [SystemMessage(content="be kind"), UserMessage(content="hi there", source="ann")]
INFO: Final = {
    "vision": True,
    "function_calling": True,
    "json_output": False,
    "family": ModelFamily.UNKNOWN,
    "structured_output": False,
}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOL: Final = FunctionTool(add, description="Add two numbers.")


class Sides:
    """The two servers and what was asked of each."""

    def __init__(self, *script: Behavior) -> None:
        settings = {"context_window": WIDE, "max_output": WIDE}
        self.native = AnthropicStubServer(list(script), **settings).__enter__()
        self.behind = AnthropicStubServer(list(script), **settings).__enter__()
        core = AnthropicCore(["stub"], base_url=self.behind.base_url, prompt_cache="off")
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        self.watch = EventWatcher()
        self.kernel = Kernel(config, cores=[core], observers=[self.watch]).start()

    def close(self) -> None:
        aios_core.uninstall()
        self.kernel.check()
        self.kernel.close(0)
        self.native.close()
        self.behind.close()

    def client(self, **settings: Any) -> AnthropicChatCompletionClient:
        about = {"model": "stub", "base_url": self.native.base_url, "api_key": "x"}
        return AnthropicChatCompletionClient(
            **{**about, "model_info": INFO, "max_retries": 0, **settings}
        )

    async def run(self, program: Callable[[], Any], mode: Any = "substitute") -> tuple[Any, Any]:
        """Return the outcome of the program at the native provider, and on the kernel."""
        native = await outcome(program)
        aios_core.install("autogen", mode=mode)
        former = set_default_kernel(self.kernel)
        try:
            return native, await outcome(program)
        finally:
            set_default_kernel(former)
            aios_core.uninstall()

    def require_same_bodies(self) -> None:
        native, behind = (
            [normal(exchange.body) for exchange in server.exchanges]
            for server in (self.native, self.behind)
        )
        assert native
        assert behind == native


async def outcome(program: Callable[[], Any]) -> Any:
    try:
        return await program()
    except Exception as exc:  # noqa: BLE001 - it is what is compared
        return exc


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without `stream`, and with texts as blocks."""
    kept = {key: value for key, value in body.items() if key != "stream"}
    kept["messages"] = [{**turn, "content": blocks(turn["content"])} for turn in kept["messages"]]
    return {**kept, "system": blocks(kept.get("system", []))}


def blocks(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [
        {key: blocks(v) if key == "content" else v for key, v in block.items() if v is not False}
        for block in content
    ]


@pytest.fixture
def sides() -> Iterator[Callable[..., Sides]]:
    made: list[Sides] = []

    def make(*script: Behavior) -> Sides:
        made.append(Sides(*(script or (Answer("well"),))))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def _create(client: Any, messages: Any = CHAT, **arguments: Any) -> CreateResult:
    result: CreateResult = await client.create(messages, **arguments)
    return result


async def _stream(client: Any, messages: Any = CHAT, **arguments: Any) -> CreateResult:
    stream: AsyncIterator[str | CreateResult] = client.create_stream(messages, **arguments)
    last = [item async for item in stream][-1]
    assert isinstance(last, CreateResult)
    return last


WAYS: Final = {"create": _create, "create_stream": _stream}


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_is_read_as_at_the_provider(sides: Callable[..., Sides], way: str) -> None:
    both = sides(FULL)

    async def program() -> Any:
        client = both.client(temperature=0.5, max_tokens=99, stop_sequences=["X"])
        result = await WAYS[way](client, tools=[TOOL])
        return result, client.total_usage()

    native, ours = await both.run(program)

    assert ours == native
    both.require_same_bodies()


@pytest.mark.parametrize("way", WAYS)
async def test_the_results_of_calls_are_sent_with_the_tools_of_the_call_before(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(Answer("", CALLS), Answer("3 and 7"))

    async def program() -> Any:
        client = both.client()
        first = await WAYS[way](client, tools=[TOOL])
        results = [
            FunctionExecutionResult(content="3", name="add", call_id="toolu_1", is_error=False),
            FunctionExecutionResult(content="7", name="add", call_id="toolu_2", is_error=False),
        ]
        more = [
            *CHAT,
            AssistantMessage(content=first.content, source="bot"),
            FunctionExecutionResultMessage(content=results),
        ]
        return await WAYS[way](client, more)

    native, ours = await both.run(program)

    assert ours == native
    assert ours.content == "3 and 7"
    both.require_same_bodies()


async def test_an_agent_runs_unchanged(sides: Callable[..., Sides]) -> None:
    both = sides(Answer("", CALLS), Answer("3 and 7"))

    async def program() -> str:
        agent = AssistantAgent("adder", both.client(), tools=[TOOL], reflect_on_tool_use=True)
        return str((await agent.run(task="what?")).messages[-1].to_text())

    native, ours = await both.run(program)

    assert ours == native == "3 and 7"
    both.require_same_bodies()


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_has_the_providers_name_and_the_kernels(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(Refuse(403, "no"))

    native, ours = await both.run(lambda: WAYS[way](both.client()))

    assert isinstance(native, anthropic.PermissionDeniedError)
    assert isinstance(ours, anthropic.PermissionDeniedError)
    assert isinstance(ours, KernelError)


async def test_no_key_is_needed_and_any_core_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
    with Kernel(config, cores=[ScriptedCore("from the kernel")]) as kernel:
        former = set_default_kernel(kernel)
        aios_core.install("autogen")
        try:
            client = AnthropicChatCompletionClient(model="claude-of-the-script", model_info=INFO)
            answers = [(await ask(client)).content for ask in WAYS.values()]
            counted = client.count_tokens(CHAT)
        finally:
            aios_core.uninstall()
            set_default_kernel(former)

    assert answers == ["from the kernel"] * 2
    assert counted > 0


async def test_a_stream_that_is_left_half_read_frees_its_slot(sides: Callable[..., Sides]) -> None:
    both = sides(Answer("one two three", then="hang", after=2))
    aios_core.install("autogen")
    former = set_default_kernel(both.kernel)
    try:
        stream = both.client().create_stream(CHAT)
        await anext(stream)
        await stream.aclose()
        await both.behind.until(lambda: both.behind.exchanges[0].was_left, "the end")
    finally:
        set_default_kernel(former)


@pytest.mark.parametrize("way", WAYS)
async def test_in_passthrough_the_provider_answers_and_the_kernel_schedules(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(FULL)

    native, ours = await both.run(
        lambda: WAYS[way](both.client(), tools=[TOOL]), mode="passthrough"
    )

    assert ours == native
    assert not both.behind.exchanges
    assert len(both.native.exchanges) == 2
    assert both.watch.counts[EventKind.DONE] == 1
