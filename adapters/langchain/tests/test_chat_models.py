"""`ChatAIOS`: settings reach the kernel, answers come back, cancelling frees the core."""

from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, trim_messages
from langchain_core.tools import tool
from pydantic import BaseModel

from aios_core import (
    Budget,
    Delta,
    EventKind,
    Kernel,
    KernelConfig,
    ResponseFormat,
    Sampling,
    ToolCall,
    ToolCallDelta,
)
from aios_core.cores import ScriptedCore
from aios_core.errors import BudgetExceeded, DeadlineExceeded, InvalidRequest, WouldBlock
from aios_core.testing import cooperative_script
from aios_core.testing.event_watcher import FOREVER_S, EventWatcher
from langchain_aios import ChatAIOS

from .conftest import Boot


def core_of(kernel: Kernel) -> ScriptedCore:
    (core,) = kernel.pool
    assert isinstance(core, ScriptedCore)
    return core


# --- requests to the kernel ----------------------------------------------------------------------


def test_settings_of_the_model_reach_the_core(kernel: Kernel) -> None:
    llm = ChatAIOS(
        kernel=kernel, temperature=0.5, max_tokens=9, top_p=0.8, top_k=4, seed=7, stop=["END"]
    )

    llm.invoke("hi")

    asked = core_of(kernel).requests[-1]
    assert asked.sampling == Sampling(9, 0.5, 0.8, 4, 7, ("END",))


def test_settings_of_a_call_go_before_those_of_the_model(boot: Boot) -> None:
    kernel = boot(models=("one", "two"))
    llm = ChatAIOS(kernel=kernel, model="one", temperature=0.5, stop=["END"])

    answer = llm.invoke("hi", model="two", temperature=0.0, stop=["x"], extra_thing=1)

    asked = core_of(kernel).requests[-1]
    assert answer.response_metadata["model_name"] == "two"
    assert (asked.sampling.temperature, asked.sampling.stop) == (0.0, ("x",))
    assert asked.extra == {"extra_thing": 1}, "strange words are the backend's"


def test_bound_tools_and_the_choice_among_them_reach_the_core(kernel: Kernel) -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    llm = ChatAIOS(kernel=kernel).bind_tools([add], tool_choice="any", parallel_tool_calls=False)
    answer = llm.invoke("2 and 3")

    asked = core_of(kernel).requests[-1]
    assert [spec.name for spec in asked.tools] == ["add"]
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("required", False)
    assert answer.tool_calls[0]["args"] == {"a": 2, "b": 3}


def test_an_unknown_tool_choice_is_refused_when_it_is_bound() -> None:
    with pytest.raises(InvalidRequest, match="tool_choice"):
        ChatAIOS().bind_tools([], tool_choice="nobody")


# --- structured output ---------------------------------------------------------------------------


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_is_an_instance_of_its_class(kernel: Kernel, method: Any) -> None:
    joke = ChatAIOS(kernel=kernel).with_structured_output(Joke, method=method).invoke("a joke")

    assert isinstance(joke, Joke)


def test_a_json_schema_constrains_the_core(kernel: Kernel) -> None:
    ChatAIOS(kernel=kernel).with_structured_output(Joke, method="json_schema").invoke("a joke")

    wanted = core_of(kernel).requests[-1].response_format
    assert isinstance(wanted, ResponseFormat)
    assert wanted.name == "Joke"
    assert wanted.schema is not None
    assert set(wanted.schema["properties"]) == {"setup", "punchline"}


def test_include_raw_keeps_the_message(kernel: Kernel) -> None:
    llm = ChatAIOS(kernel=kernel).with_structured_output(Joke, include_raw=True)

    answer = llm.invoke("a joke")

    assert isinstance(answer["raw"], AIMessage)
    assert isinstance(answer["parsed"], Joke)
    assert answer["parsing_error"] is None


def test_include_raw_keeps_a_parsing_error_beside_the_message(boot: Boot) -> None:
    kernel = boot(lambda _: ToolCall("c1", "Joke", "{}"))
    llm = ChatAIOS(kernel=kernel).with_structured_output(Joke, include_raw=True)

    answer = llm.invoke("a joke")

    assert isinstance(answer["raw"], AIMessage)
    assert answer["parsed"] is None
    assert answer["parsing_error"] is not None


def test_a_method_without_a_schema_and_an_unknown_method_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a schema"):
        ChatAIOS().with_structured_output()
    with pytest.raises(ValueError, match="function_calling"):
        ChatAIOS().with_structured_output(Joke, method="telepathy")  # type: ignore[arg-type]


# --- streams -------------------------------------------------------------------------------------


def test_a_stream_gives_text_as_it_comes_and_usage_once(boot: Boot) -> None:
    kernel = boot([[Delta("one "), Delta("two"), Delta(" three")]])

    chunks = list(ChatAIOS(kernel=kernel).stream("count"))

    assert [chunk.text for chunk in chunks if chunk.text] == ["one ", "two", " three"]
    assert [bool(chunk.usage_metadata) for chunk in chunks] == [False, False, False, True]
    assert [chunk.chunk_position for chunk in chunks] == [None, None, None, "last"]


async def test_fragments_of_parallel_calls_are_kept_apart(boot: Boot) -> None:
    fragments = [
        Delta("", (ToolCallDelta(0, "c1", "add", '{"a"'),)),
        Delta("", (ToolCallDelta(1, "c2", "sub", '{"b"'),)),
        Delta("", (ToolCallDelta(0, arguments=": 1}"), ToolCallDelta(1, arguments=": 2}"))),
    ]
    llm = ChatAIOS(kernel=boot([fragments]))

    chunks = [chunk async for chunk in llm.astream("both")]

    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert [call["args"] for call in whole.tool_calls] == [{"a": 1}, {"b": 2}]
    assert {part["index"] for chunk in chunks for part in chunk.tool_call_chunks} == {0, 1}


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_llm_new_token(self, token: str, **_: Any) -> None:
        self.heard.append(token)


def test_callbacks_hear_each_token_once(boot: Boot) -> None:
    kernel = boot(lambda _: [Delta("one "), Delta("two")])
    streamed, inside = Tokens(), Tokens()

    list(ChatAIOS(kernel=kernel).stream("x", config={"callbacks": [streamed]}))
    ChatAIOS(kernel=kernel, streaming=True).invoke("x", config={"callbacks": [inside]})

    assert [token for token in streamed.heard if token] == ["one ", "two"]
    assert [token for token in inside.heard if token] == ["one ", "two"]


# --- errors --------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_an_overflow_for_langchain_too(boot: Boot) -> None:
    kernel = boot(context_window=4)

    with pytest.raises(ContextOverflowError, match="4 tokens"):
        ChatAIOS(kernel=kernel).invoke("one two three four five")


def test_a_budget_of_the_agent_is_kept(kernel: Kernel) -> None:
    llm = ChatAIOS(kernel=kernel, agent="poor", budget=Budget(calls=1))

    llm.invoke("one")

    with pytest.raises(BudgetExceeded, match="calls"):
        llm.invoke("two")


def test_a_timeout_is_a_deadline(boot: Boot) -> None:
    kernel = boot(latency_s=FOREVER_S)

    with pytest.raises(DeadlineExceeded):
        ChatAIOS(kernel=kernel, timeout=0.01).invoke("hi")


# --- cancelling ----------------------------------------------------------------------------------


def assert_free(kernel: Kernel, watch: EventWatcher) -> None:
    """The core's only slot takes another call."""
    num_before = watch.counts[EventKind.DISPATCHED]
    with kernel.spawn("next") as agent, agent.llm.stream("hi"):
        watch.wait(EventKind.DISPATCHED, num_before + 1)


async def test_cancelling_the_task_frees_the_core(boot: Boot, watch: EventWatcher) -> None:
    kernel = boot(latency_s=FOREVER_S, slots=1)
    call = asyncio.create_task(ChatAIOS(kernel=kernel).ainvoke("hi"))
    await watch.async_wait(EventKind.DISPATCHED)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await watch.async_wait(EventKind.CANCELLED)
    await asyncio.to_thread(assert_free, kernel, watch)


async def test_leaving_an_async_stream_frees_the_core(boot: Boot, watch: EventWatcher) -> None:
    kernel = boot(lambda _: "word " * 1000, token_s=0.001, slots=1)
    stream = ChatAIOS(kernel=kernel).astream("hi")

    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]

    await watch.async_wait(EventKind.CANCELLED)
    await asyncio.to_thread(assert_free, kernel, watch)


def test_leaving_a_stream_frees_the_core(boot: Boot, watch: EventWatcher) -> None:
    kernel = boot(lambda _: "word " * 1000, token_s=0.001, slots=1)
    stream = ChatAIOS(kernel=kernel).stream("hi")

    next(stream)
    stream.close()  # type: ignore[attr-defined]

    watch.wait(EventKind.CANCELLED)
    assert_free(kernel, watch)


# --- threads and loops ---------------------------------------------------------------------------


async def test_a_hundred_calls_run_at_once(boot: Boot, watch: EventWatcher) -> None:
    kernel = boot(latency_s=FOREVER_S, slots=200)
    llm = ChatAIOS(kernel=kernel)
    calls = [asyncio.create_task(llm.ainvoke("hi")) for _ in range(100)]

    await watch.async_wait(EventKind.DISPATCHED, 100)

    assert core_of(kernel).load().num_running == 100
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


def test_one_model_serves_several_loops_and_threads(kernel: Kernel) -> None:
    llm = ChatAIOS(kernel=kernel)

    async def ask() -> list[str]:
        answers = await asyncio.gather(*(llm.ainvoke(f"{n}") for n in range(5)))
        return [answer.text for answer in answers]

    with ThreadPoolExecutor(4) as threads:
        on_loops = [threads.submit(asyncio.run, ask()) for _ in range(4)]
        on_threads = [threads.submit(llm.invoke, f"{n}") for n in range(4)]

    assert [loop.result() for loop in on_loops] == [[f"You said: {n}" for n in range(5)]] * 4
    assert [call.result().text for call in on_threads] == [f"You said: {n}" for n in range(4)]


async def test_a_blocking_call_inside_a_foreign_loop_works(kernel: Kernel) -> None:
    assert ChatAIOS(kernel=kernel).invoke("hi").text == "You said: hi"


async def test_a_blocking_call_on_the_kernels_own_loop_is_refused() -> None:
    async with Kernel(KernelConfig(), cores=[ScriptedCore(cooperative_script)]) as kernel:
        llm = ChatAIOS(kernel=kernel)

        with pytest.raises(WouldBlock, match="agenerate"):
            llm.invoke("hi")
        with pytest.raises(WouldBlock, match="astream"):
            next(llm.stream("hi"))

        assert (await llm.ainvoke("hi")).text == "You said: hi"
        chunks = [chunk.text async for chunk in llm.astream("hi")]
        assert chunks[0] == "You said: hi"


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, ChatAIOS.model_copy])
def test_a_copy_runs_on_the_same_kernel(kernel: Kernel, how: Any) -> None:
    llm = ChatAIOS(kernel=kernel, model="scripted", agent="me")

    again = how(llm)

    assert again.kernel is kernel
    assert (again.model, again.agent) == ("scripted", "me")


def test_a_pickled_model_wakes_up_on_the_default_kernel(as_default: Kernel) -> None:
    with as_default.spawn("reader") as agent:
        llm = ChatAIOS(kernel=as_default, temperature=0.5, agent=agent)

        again = pickle.loads(pickle.dumps(llm))  # noqa: S301 - our own

    assert (again.kernel, again.agent, again.temperature) == (None, "reader", 0.5)
    assert again.invoke("hi").text == "You said: hi"


def test_a_dump_holds_no_kernel(kernel: Kernel) -> None:
    assert "kernel" not in ChatAIOS(kernel=kernel).model_dump()
    assert not ChatAIOS.is_lc_serializable()


@pytest.mark.usefixtures("as_default")
async def test_without_a_kernel_the_default_one_answers(watch: EventWatcher) -> None:
    assert (await ChatAIOS().ainvoke("hi")).text == "You said: hi"
    assert watch.counts[EventKind.DONE] == 1


def test_tokens_are_counted_by_the_core_and_nothing_is_downloaded(kernel: Kernel) -> None:
    llm = ChatAIOS(kernel=kernel)

    assert llm.get_num_tokens("three words more") == 3  # a word is a token of the scripted core
    assert llm.get_num_tokens_from_messages([HumanMessage("one two")]) > 1
    with pytest.raises(NotImplementedError, match="get_num_tokens"):
        llm.get_token_ids("x")
    kept = trim_messages(
        [HumanMessage("a " * 50), AIMessage("b"), HumanMessage("c")],
        max_tokens=20,
        token_counter=llm,
        strategy="last",
    )
    assert [message.content for message in kept] == ["b", "c"]


def test_tokens_are_counted_by_the_kernel_of_a_given_agent(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_aios.chat_models.default_kernel", lambda: pytest.fail("started"))

    with kernel.spawn("mine") as mine:
        assert ChatAIOS(agent=mine).get_num_tokens("two words") == 2


@pytest.mark.parametrize("where", ["constructor", "call", "extra_body"])
def test_what_the_kernel_decides_by_is_its_argument_wherever_it_is_written(
    kernel: Kernel, where: str
) -> None:
    said = {"max_tokens": 5, "n": 1, "priority": 3, "reasoning_effort": "low"}
    llm = ChatAIOS(kernel=kernel, model_kwargs=said if where == "constructor" else {})

    llm.invoke("hi", **{"call": said, "extra_body": {"extra_body": said}}.get(where, {}))

    (core,) = kernel.pool
    asked = core.requests[-1]  # type: ignore[attr-defined]
    assert asked.sampling.to_dict() == {"max_tokens": 5, "n": 1}
    assert asked.extra == {"reasoning_effort": "low"}
