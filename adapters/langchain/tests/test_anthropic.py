"""`ChatAnthropic` on the kernel: it asks and answers as at Anthropic, in both modes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import anthropic
import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from pydantic import BaseModel

from aios_core import Kernel, KernelConfig, KernelError, set_default_kernel
from aios_core.cores.anthropic.core import AnthropicCore
from aios_core.cores.scripted import ScriptedCore
from aios_core.events import EventKind
from aios_core.launch import install, uninstall
from aios_core.messages import Message, ToolCall
from aios_core.testing.event_watcher import EventWatcher
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer, Behavior, Refuse

WIDE: Final = 200_000
THOUGHTS: Final = (
    {"type": "thinking", "thinking": "one and two", "signature": "c2lnbmVk"},
    {"type": "redacted_thinking", "data": "aGlkZGVu"},
)
CALLS: Final = (
    ToolCall("toolu_1", "weather", '{"city": "\\u00d6"}'),
    ToolCall("toolu_2", "now", "{}"),
)
FULL: Final = Answer(message=Message("assistant", "See:", tool_calls=CALLS, thinking=THOUGHTS))
THINKING: Final = {"type": "enabled", "budget_tokens": 1_024}


@tool
def weather(city: str) -> str:
    """Look up the weather of a place."""
    return f"4 C in {city}"


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


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
        self.kernel.check()
        self.kernel.close(0)
        self.native.close()
        self.behind.close()

    def llm(self, **settings: Any) -> ChatAnthropic:
        about = {"model": "stub", "base_url": self.native.base_url, "api_key": "x"}
        return ChatAnthropic(**{**about, "max_retries": 0, **settings})

    def run(self, program: Callable[[], Any]) -> tuple[Any, Any]:
        """Return the outcome of the program at the native provider, and on the kernel."""
        native = outcome(program)
        install("langchain")
        former = set_default_kernel(self.kernel)
        try:
            return native, outcome(program)
        finally:
            set_default_kernel(former)
            uninstall()

    def require_same_bodies(self) -> None:
        native, behind = (
            [normal(exchange.body) for exchange in server.exchanges]
            for server in (self.native, self.behind)
        )
        assert native
        assert behind == native


def outcome(program: Callable[[], Any]) -> Any:
    try:
        return program()
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
    return [{key: value for key, value in block.items() if value is not False} for block in content]


def facts(message: AIMessage) -> dict[str, Any]:
    """Return the fields of a message, without the number of its run."""
    return {key: value for key, value in message.model_dump().items() if key != "id"}


def streamed(llm: Any, asked: Any) -> AIMessageChunk:
    return add(list(llm.stream(asked)))


def astreamed(llm: Any, asked: Any) -> AIMessageChunk:
    async def gather() -> list[AIMessageChunk]:
        return [chunk async for chunk in llm.astream(asked)]

    return add(asyncio.run(gather()))


def add(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


WAYS: Final[dict[str, Callable[..., Any]]] = {
    "invoke": lambda llm, asked: llm.invoke(asked),
    "ainvoke": lambda llm, asked: asyncio.run(llm.ainvoke(asked)),
    "stream": streamed,
    "astream": astreamed,
}


@pytest.fixture
def sides() -> Iterator[Callable[..., Sides]]:
    made: list[Sides] = []

    def make(*script: Behavior) -> Sides:
        made.append(Sides(*(script or (Answer("well"),))))
        return made[-1]

    yield make
    for each in made:
        each.close()


# --- substitute ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_read_as_at_the_provider(sides: Callable[..., Sides], way: str) -> None:
    both = sides(FULL)

    def program() -> dict[str, Any]:
        llm = both.llm(thinking=THINKING, max_tokens=2_000).bind_tools([weather])
        return facts(WAYS[way](llm, [("system", "be kind"), ("human", "hi")]))

    native, ours = both.run(program)

    assert ours == native
    both.require_same_bodies()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reason", ["end_turn", "max_tokens", "stop_sequence", "refusal"])
def test_each_stop_reason_is_that_of_the_provider(
    sides: Callable[..., Sides], way: str, reason: str
) -> None:
    both = sides(Answer("well", finish_reason=reason))

    native, ours = both.run(lambda: facts(WAYS[way](both.llm(), "hi")))

    assert ours == native
    assert ours["response_metadata"]["stop_reason"] == reason


@pytest.mark.parametrize("way", ["invoke", "astream"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5, "top_k": 7, "max_tokens": 9},
        {"stop_sequences": ["A", "B"], "model_kwargs": {"service_tier": "auto"}},
        {"thinking": THINKING, "max_tokens": 2_000},
        {"output_config": {"effort": "low"}},
    ],
    ids=str,
)
def test_every_field_of_the_constructor_is_asked_for(
    sides: Callable[..., Sides], settings: dict[str, Any], way: str
) -> None:
    both = sides()

    both.run(lambda: WAYS[way](both.llm(**settings), "hi"))

    both.require_same_bodies()


@pytest.mark.parametrize(
    "bound",
    [
        {"tool_choice": "weather"},
        {"tool_choice": "any", "parallel_tool_calls": False},
        {"tool_choice": "auto"},
        {"strict": True},
    ],
    ids=str,
)
def test_tools_are_offered_as_at_the_provider(
    sides: Callable[..., Sides], bound: dict[str, Any]
) -> None:
    both = sides(FULL)

    both.run(lambda: both.llm().bind_tools([weather], **bound).invoke("hi"))

    both.require_same_bodies()


def test_a_conversation_with_pictures_thoughts_and_results_is_sent_alike(
    sides: Callable[..., Sides],
) -> None:
    both = sides(FULL, Answer("fine"))
    source = {"type": "base64", "media_type": "image/png", "data": "eA=="}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "eA=="}

    def program() -> None:
        llm = both.llm(thinking=THINKING, max_tokens=2_000).bind_tools([weather])
        parts = [
            {"type": "text", "text": "see"},
            {"type": "image", "source": source},
            {"type": "document", "source": pdf, "title": "a"},
        ]
        asked = [SystemMessage("be kind"), HumanMessage(parts)]
        first = llm.invoke(asked)
        results = [
            ToolMessage("4 C", tool_call_id="toolu_1"),
            ToolMessage("broken", tool_call_id="toolu_2", status="error"),
        ]
        llm.invoke([*asked, first, *results])

    both.run(program)

    assert len(both.behind.exchanges) == 2
    both.require_same_bodies()


def test_an_agent_runs_unchanged(sides: Callable[..., Sides]) -> None:
    both = sides(Answer("", CALLS[:1]), Answer("4 C in \u00d6"))

    def program() -> list[str]:
        agent = create_agent(both.llm(), [weather])
        said = agent.invoke({"messages": [("user", "weather?")]})["messages"]
        return [str(message.content) for message in said]

    native, ours = both.run(program)

    assert ours[-2:] == native[-2:] == ["4 C in \u00d6", "4 C in \u00d6"]
    both.require_same_bodies()


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_is_that_of_the_provider(
    sides: Callable[..., Sides], method: Any
) -> None:
    said = '{"setup": "a", "punchline": "b"}'
    answer = Answer(said) if method == "json_schema" else Answer("", (ToolCall("t", "Joke", said),))
    both = sides(answer)

    native, ours = both.run(
        lambda: both.llm().with_structured_output(Joke, method=method).invoke("x")
    )

    assert ours == native == Joke(setup="a", punchline="b")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refuse(400, "messages: wrong"), anthropic.BadRequestError),
        (Refuse(401, "invalid x-api-key"), anthropic.AuthenticationError),
        (Refuse(403, "no"), anthropic.PermissionDeniedError),
        (Refuse(404, "model: stub"), anthropic.NotFoundError),
    ],
    ids=str,
)
def test_a_refusal_has_the_providers_name_and_the_kernels(
    sides: Callable[..., Sides], way: str, refusal: Refuse, kind: type[Exception]
) -> None:
    both = sides(refusal)

    native, ours = both.run(lambda: WAYS[way](both.llm(), "hi"))

    assert isinstance(native, kind)
    assert isinstance(ours, kind)
    assert isinstance(ours, KernelError)


def test_no_key_is_needed_and_any_core_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
    with Kernel(config, cores=[ScriptedCore("from the kernel")]) as kernel:
        former = set_default_kernel(kernel)
        install("langchain")
        try:
            llm = ChatAnthropic(model="claude-of-the-script")
            answers = [str(WAYS[way](llm, "hi").text) for way in WAYS]
            counted = llm.get_num_tokens_from_messages([HumanMessage("one two")])
        finally:
            uninstall()
            set_default_kernel(former)

    assert answers == ["from the kernel"] * 4
    assert counted > 0


def test_a_stream_that_is_left_half_read_frees_its_slot(sides: Callable[..., Sides]) -> None:
    both = sides(Answer("one two three", then="hang", after=2))
    install("langchain")
    former = set_default_kernel(both.kernel)
    try:
        stream = both.llm().stream("hi")
        next(stream)
        stream.close()
        both.behind.wait(lambda: both.behind.exchanges[0].was_left, "the end of the connection")
    finally:
        set_default_kernel(former)
        uninstall()


# --- passthrough --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_in_passthrough_the_provider_answers_and_the_kernel_schedules(
    sides: Callable[..., Sides], way: str
) -> None:
    both = sides(FULL)
    llm = both.llm().bind_tools([weather])
    native = facts(WAYS[way](llm, "hi"))
    install("langchain", mode="passthrough")
    former = set_default_kernel(both.kernel)
    try:
        ours = facts(WAYS[way](llm, "hi"))
    finally:
        set_default_kernel(former)
        uninstall()

    assert ours == native
    assert not both.behind.exchanges
    assert len(both.native.exchanges) == 2
    assert both.watch.counts[EventKind.DONE] == 1
