"""A streamed call belongs to its run: in every mode, however and wherever it is read."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from llama_index.core import MockEmbedding, Settings, SummaryIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step
from llama_index.llms.aios import AIOSLLM
from llama_index.llms.openai import OpenAI
from workflows.errors import WorkflowCancelledByUser

import aios_core
from aios_adapters import Caller
from aios_core import Kernel
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Refuse, StubServer
from llama_index_aios.callers import directory, tree

# A chat engine's own thread raises what its stream does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

HI = [ChatMessage(role="user", content="hi")]
MODEL = "gpt-4o"


_callers_before: set[Caller] = set()


@pytest.fixture(autouse=True)
def callers_of_other_tests() -> None:
    """Note who was there before: threads of other tests, and what their failures keep alive."""
    for caller in directory.callers:
        directory.end(caller)
    _callers_before.clear()
    _callers_before.update(directory.callers)


@pytest.fixture(params=["own", "substitute", "passthrough"])
def llm(request: pytest.FixtureRequest, as_default: Kernel) -> Iterator[Any]:
    """An LLM on the kernel, in each of the three ways."""
    del as_default
    Settings.embed_model = MockEmbedding(embed_dim=2)
    if request.param == "own":
        Settings.llm = AIOSLLM()
        yield Settings.llm
    else:
        aios_core.install("llamaindex", mode=request.param)
        with StubServer(Answer("one two three"), models=[MODEL]) as server:
            Settings.llm = OpenAI(model=MODEL, api_base=server.base_url, api_key="k", max_retries=0)
            yield Settings.llm
    Settings._llm = Settings._embed_model = None
    aios_core.uninstall()


def index(num_texts: int = 1) -> SummaryIndex:
    return SummaryIndex(
        nodes=[TextNode(text=f"text {number} " * 60) for number in range(num_texts)]
    )


def buffer() -> ChatMemoryBuffer:
    """A memory without a database, which LlamaIndex leaves to the garbage collector."""
    return ChatMemoryBuffer.from_defaults(token_limit=1_000)


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def adder() -> FunctionAgent:
    return FunctionAgent(name="adder", description="adds", tools=[FunctionTool.from_defaults(add)])


def read_by_thread(steps: Any) -> None:
    thread = threading.Thread(target=list, args=(steps,))
    thread.start()
    thread.join()


# --- what is run: one run each ------------------------------------------------------------------


async def query() -> None:
    list(index().as_query_engine(streaming=True).query("hi").response_gen)


async def query_in_several_calls() -> None:
    engine = index(3).as_query_engine(streaming=True, response_mode="refine")
    list(engine.query("hi").response_gen)


async def query_read_by_a_thread() -> None:
    read_by_thread(index().as_query_engine(streaming=True).query("hi").response_gen)


async def aquery() -> None:
    response: Any = await index().as_query_engine(streaming=True).aquery("hi")
    assert "".join([text async for text in response.async_response_gen()])


async def aquery_in_several_calls() -> None:
    engine = index(3).as_query_engine(streaming=True, response_mode="refine")
    response: Any = await engine.aquery("hi")
    assert "".join([text async for text in response.async_response_gen()])


async def chat() -> None:
    list(SimpleChatEngine.from_defaults(memory=buffer()).stream_chat("hi").response_gen)


async def achat() -> None:
    response = await SimpleChatEngine.from_defaults(memory=buffer()).astream_chat("hi")
    assert "".join([text async for text in response.async_response_gen()])


async def chat_that_condenses() -> None:
    engine = index().as_chat_engine("condense_question", memory=buffer())
    history = [ChatMessage(role="user", content="a"), ChatMessage(role="assistant", content="b")]
    list(engine.stream_chat("hi", chat_history=history).response_gen)


async def achat_that_condenses() -> None:
    engine = index().as_chat_engine("condense_plus_context", memory=buffer())
    history = [ChatMessage(role="user", content="a"), ChatMessage(role="assistant", content="b")]
    response = await engine.astream_chat("hi", chat_history=history)
    assert "".join([text async for text in response.async_response_gen()])


async def function_agent() -> None:
    handler = FunctionAgent(tools=[FunctionTool.from_defaults(add)]).run(
        "add 3 and 4", memory=buffer()
    )
    async for _ in handler.stream_events():
        pass
    await handler


async def react_agent() -> None:
    await ReActAgent(tools=[]).run("hi", memory=buffer())


async def agent_workflow() -> None:
    await AgentWorkflow(agents=[adder()], root_agent="adder").run("add 3 and 4", memory=buffer())


class _Parallel(Workflow):
    @step
    async def ask(self, _: StartEvent) -> StopEvent:
        async def read() -> None:
            async for _ in await Settings.llm.astream_chat(HI):
                pass

        await asyncio.gather(Settings.llm.achat(HI), *(read() for _ in range(3)))
        return StopEvent(result=None)


async def parallel_branches_of_a_workflow() -> None:
    await _Parallel().run()


class _Handing(Workflow):
    @step
    async def ask(self, _: StartEvent) -> StopEvent:
        await Settings.llm.achat(HI)
        return StopEvent(result=await Settings.llm.astream_chat(HI))


async def a_stream_that_a_workflow_hands_out() -> None:
    async for _ in await _Handing().run():
        pass


RUNS: list[Callable[[], Awaitable[None]]] = [
    query,
    query_in_several_calls,
    query_read_by_a_thread,
    aquery,
    aquery_in_several_calls,
    chat,
    achat,
    chat_that_condenses,
    achat_that_condenses,
    function_agent,
    react_agent,
    agent_workflow,
    parallel_branches_of_a_workflow,
    a_stream_that_a_workflow_hands_out,
]


def run(work: Callable[[], Awaitable[Any]]) -> None:
    """In a thread and a loop of its own, as a program would."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type] # a coroutine
        except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
            failures.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def nothing_stays(kernel: Kernel) -> None:
    assert tree.num_runs == 0
    assert set(directory.callers) <= _callers_before
    directory.check()
    kernel.check()


@pytest.mark.usefixtures("llm")
@pytest.mark.parametrize("work", RUNS, ids=lambda work: work.__name__)
def test_a_run_with_streams_is_one_agent_that_is_gone_afterwards(
    work: Callable[[], Awaitable[None]], as_default: Kernel, watch: EventWatcher
) -> None:
    run(work)

    assert len(set(watch.callers())) == 1
    nothing_stays(as_default)


@pytest.mark.usefixtures("llm")
@pytest.mark.parametrize("llm", ["own", "passthrough"], indirect=True)
@pytest.mark.parametrize("work", RUNS, ids=lambda work: work.__name__)
def test_two_runs_at_once_are_two_agents(
    work: Callable[[], Awaitable[None]], as_default: Kernel, watch: EventWatcher
) -> None:
    async def both() -> None:
        await asyncio.gather(work(), work())

    run(both)

    assert len(set(watch.callers())) == 2
    nothing_stays(as_default)


async def a_query_that_is_left_half_read() -> None:
    steps = index().as_query_engine(streaming=True).query("hi").response_gen
    next(steps)
    steps.close()


async def a_query_that_nobody_reads() -> None:
    index().as_query_engine(streaming=True).query("hi")


async def an_aquery_that_is_left_half_read() -> None:
    response: Any = await index().as_query_engine(streaming=True).aquery("hi")
    async for _ in response.async_response_gen():
        break


async def a_chat_that_is_left_half_read() -> None:
    steps: AsyncGenerator[Any] = await Settings.llm.astream_chat(HI)  # type: ignore[assignment]
    await anext(steps)
    await steps.aclose()


async def a_chat_that_nobody_reads() -> None:
    await Settings.llm.astream_chat(HI)
    Settings.llm.stream_chat(HI)


async def a_workflow_that_is_cancelled() -> None:
    handler = FunctionAgent(tools=[FunctionTool.from_defaults(add)]).run(
        "add 3 and 4", memory=buffer()
    )
    async for _ in handler.stream_events():
        break
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler


LEFT = [
    a_query_that_is_left_half_read,
    a_query_that_nobody_reads,
    an_aquery_that_is_left_half_read,
    a_chat_that_is_left_half_read,
    a_chat_that_nobody_reads,
    a_workflow_that_is_cancelled,
]


@pytest.mark.usefixtures("llm")
@pytest.mark.parametrize("work", LEFT, ids=lambda work: work.__name__)
def test_a_stream_that_is_left_leaves_no_agent(
    work: Callable[[], Awaitable[None]], as_default: Kernel
) -> None:
    run(work)
    gc.collect()  # finalize unreferenced streams

    nothing_stays(as_default)


@pytest.mark.usefixtures("llm")
def test_a_stream_of_a_task_that_is_over_is_read_in_another_loop(as_default: Kernel) -> None:
    steps: list[Any] = []
    said: list[str] = []

    async def ask() -> None:
        steps.append(await Settings.llm.astream_chat(HI))

    async def read() -> None:
        said.extend([step.delta async for step in steps.pop()])

    run(ask)
    run(read)

    assert "".join(said).strip() in {"You said: hi", "one two three"}
    nothing_stays(as_default)


@pytest.mark.parametrize("work", [query, aquery, chat, achat, function_agent])
def test_a_stream_that_fails_leaves_no_agent(
    work: Callable[[], Awaitable[None]], as_default: Kernel
) -> None:
    aios_core.install("llamaindex", mode="passthrough")
    Settings.embed_model = MockEmbedding(embed_dim=2)
    with StubServer(Refuse(400), models=[MODEL]) as server:
        Settings.llm = OpenAI(model=MODEL, api_base=server.base_url, api_key="k", max_retries=0)
        with pytest.raises(Exception, match="the stub refuses"):
            run(work)

    Settings._llm = Settings._embed_model = None
    aios_core.uninstall()
    nothing_stays(as_default)
