"""LlamaIndex's `Anthropic` on the kernel: it asks and answers as at Anthropic, in both modes."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any, Final

import anthropic
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.anthropic import Anthropic
from pydantic import BaseModel

import aios_core
from aios_core import Kernel, KernelConfig, KernelError, set_default_kernel
from aios_core.cores.anthropic.core import AnthropicCore
from aios_core.events import EventKind
from aios_core.messages import Message, ToolCall
from aios_core.testing.event_watcher import EventWatcher
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer, Behavior, Refuse

MODEL: Final = "claude-opus-4-5"
WIDE: Final = 200_000
CALLS: Final = (
    ToolCall("toolu_1", "add", '{"a": 1, "b": 2}'),
    ToolCall("toolu_2", "add", '{"a": 3, "b": 4}'),
)
THOUGHTS: Final = ({"type": "thinking", "thinking": "one and two", "signature": "c2lnbmVk"},)
FULL: Final = Answer(message=Message("assistant", "See:", tool_calls=CALLS, thinking=THOUGHTS))
PNG: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
CHAT: Final = [
    ChatMessage(role="system", content="be kind"),
    ChatMessage(role="user", blocks=[TextBlock(text="see"), ImageBlock(image=PNG)]),
]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOL: Final = FunctionTool.from_defaults(add)


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


class Sides:
    """The two servers and what was asked of each."""

    def __init__(self, *script: Behavior) -> None:
        settings = {"models": [MODEL], "context_window": WIDE, "max_output": WIDE}
        self.native = AnthropicStubServer(list(script), **settings).__enter__()
        self.behind = AnthropicStubServer(list(script), **settings).__enter__()
        core = AnthropicCore([MODEL], base_url=self.behind.base_url, prompt_cache="off")
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        self.watch = EventWatcher()
        self.kernel = Kernel(config, cores=[core], observers=[self.watch]).start()

    def close(self) -> None:
        aios_core.uninstall()
        self.kernel.check()
        self.kernel.close(0)
        self.native.close()
        self.behind.close()

    def llm(self, **settings: Any) -> Anthropic:
        about = {"model": MODEL, "base_url": self.native.base_url, "api_key": "x"}
        return Anthropic(**{**about, "max_retries": 0, **settings})

    async def run(self, program: Callable[[], Any], mode: str = "substitute") -> tuple[Any, Any]:
        """Return the outcome of the program at the native provider, and on the kernel."""
        native = await outcome(program)
        aios_core.install("llamaindex", mode=mode)  # type: ignore[arg-type]
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


async def _chat(llm: Any, **kwargs: Any) -> Any:
    return llm.chat(CHAT, **kwargs)


async def _achat(llm: Any, **kwargs: Any) -> Any:
    return await llm.achat(CHAT, **kwargs)


async def _stream(llm: Any, **kwargs: Any) -> Any:
    return list(llm.stream_chat(CHAT, **kwargs))[-1]


async def _astream(llm: Any, **kwargs: Any) -> Any:
    return [step async for step in await llm.astream_chat(CHAT, **kwargs)][-1]


WAYS: Final = {"chat": _chat, "achat": _achat, "stream": _stream, "astream": _astream}


def facts(answer: Any) -> Any:
    """Return the message and the usage of an answer."""
    raw = answer.raw if isinstance(answer.raw, dict) else dict(answer.raw or {})
    usage = raw.get("usage")
    counts = usage if isinstance(usage, dict) else getattr(usage, "model_dump", dict)()
    kept = {key: value for key, value in counts.items() if value is not None}
    return answer.message.model_dump(), raw.get("stop_reason"), kept


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_is_read_as_at_the_provider(sides: Callable[..., Sides], way: str) -> None:
    both = sides(FULL)
    thinking = {"type": "enabled", "budget_tokens": 1_024}

    async def program() -> Any:
        llm = both.llm(thinking_dict=thinking, max_tokens=2_000, additional_kwargs={"top_k": 5})
        prepared = llm._prepare_chat_with_tools([TOOL], chat_history=CHAT)
        prepared.pop("messages")
        return facts(await WAYS[way](llm, **prepared))

    native, ours = await both.run(program)

    if way in ("chat", "achat"):
        assert ours == native
    else:  # the first event of a stream cannot have the size of the prompt
        assert ours[:2] == native[:2]
    both.require_same_bodies()


async def test_an_agent_with_two_parallel_calls_runs_unchanged(sides: Callable[..., Sides]) -> None:
    both = sides(Answer("", CALLS), Answer("3 and 7"))

    async def program() -> str:
        agent = FunctionAgent(tools=[TOOL], llm=both.llm(), system_prompt="add")
        return str(await agent.run("what?"))

    native, ours = await both.run(program)

    assert ours == native == "3 and 7"
    both.require_same_bodies()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of LlamaIndex's own call
@pytest.mark.parametrize("way", ["structured_predict", "astructured_predict"])
async def test_a_structured_answer_is_that_of_the_provider(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(Answer('{"setup": "a", "punchline": "b"}'))

    async def program() -> Any:
        answer = getattr(both.llm(), way)(Joke, PromptTemplate("a joke on {x}"), x="cats")
        return await answer if way.startswith("a") else answer

    native, ours = await both.run(program)

    assert ours == native == Joke(setup="a", punchline="b")


async def test_a_prompt_alone_and_its_size_are_asked_of_the_kernel(
    sides: Callable[..., Sides],
) -> None:
    both = sides()

    async def program() -> Any:
        llm = both.llm()
        return (await llm.acomplete("hi")).text, len(llm.tokenizer.encode("one two three"))

    native, ours = await both.run(program)

    assert native == ours == ("well", 3)
    assert both.behind.num_counted == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_has_the_providers_name_and_the_kernels(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(Refuse(403, "no"))

    native, ours = await both.run(lambda: WAYS[way](both.llm()))

    assert isinstance(native, anthropic.PermissionDeniedError)
    assert isinstance(ours, anthropic.PermissionDeniedError)
    assert isinstance(ours, KernelError)


@pytest.mark.parametrize("way", WAYS)
async def test_in_passthrough_the_provider_answers_and_the_kernel_schedules(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(Answer("well"))

    native, ours = await both.run(lambda: WAYS[way](both.llm()), mode="passthrough")

    assert ours.message == native.message
    assert not both.behind.exchanges
    assert len(both.native.exchanges) == 2
    assert both.watch.counts[EventKind.DONE] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of LlamaIndex's own call
@pytest.mark.parametrize("way", ["structured_predict", "astructured_predict"])
async def test_in_passthrough_a_structured_answer_is_scheduled_once(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(Answer('{"setup": "a", "punchline": "b"}'))

    async def program() -> Any:
        answer = getattr(both.llm(), way)(Joke, PromptTemplate("a joke on {x}"), x="cats")
        return await answer if way.startswith("a") else answer

    native, ours = await both.run(program, mode="passthrough")

    assert ours == native == Joke(setup="a", punchline="b")
    assert both.watch.counts[EventKind.DONE] == 1
