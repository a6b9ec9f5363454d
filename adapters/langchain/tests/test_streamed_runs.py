"""A streamed call belongs to its run, in every mode: one agent a run, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from typing import Annotated, Any, Final, Literal, TypedDict

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from aios_adapters import CallerKind
from aios_core import EventKind, Kernel
from aios_core.errors import KernelError
from aios_core.launch import install, uninstall
from aios_core.testing.event_watcher import EventWatcher
from aios_core.testing.stub_server import Answer, StubServer
from langchain_aios import ChatAIOS
from langchain_aios.callers import directory, tracker

from .conftest import Boot

Mode = Literal["ours", "substitute", "passthrough"]
Model = Callable[[], BaseChatModel]

MODES: Final[tuple[Mode, ...]] = ("ours", "substitute", "passthrough")
STREAM_MODES: Final = ("values", "updates", "messages", "custom", "debug", "checkpoints", "tasks")
ALL_STREAM_MODES: Final = (*STREAM_MODES, list(STREAM_MODES))
EVENT_VERSIONS: Final = ("v1", "v2", "v3")


pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning"),
]


@pytest.fixture(params=MODES)
def model(request: pytest.FixtureRequest, as_default: Kernel) -> Iterator[Model]:
    """Make models that call the kernel, in one mode after the other."""
    with StubServer(Answer("You said so")) as server:
        if request.param != "ours":
            install("langchain", mode=request.param)

        def make() -> BaseChatModel:
            if request.param == "ours":
                return ChatAIOS(kernel=as_default)
            return ChatOpenAI(model="stub", base_url=server.base_url, api_key="x", max_retries=0)  # type: ignore[arg-type]

        yield make
        uninstall()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Require after every test that no run continues and that no agent of a run is left."""
    gc.freeze()  # a collection then looks at what the test itself made, which is quick
    yield
    gc.collect()
    gc.unfreeze()
    assert tracker.num_runs == 0
    kinds = {caller.kind for caller in directory.callers}
    assert kinds <= {CallerKind.NAMED, CallerKind.THREAD}


def require_runs(watch: EventWatcher, kernel: Kernel, *, runs: int, calls: int) -> None:
    """Require the number of calls and of calling agents, and that all these agents have exited."""
    assert len(watch.callers()) == calls
    assert len(set(watch.callers())) == runs
    require_nobody(watch, kernel)


def require_nobody(watch: EventWatcher, kernel: Kernel) -> None:
    """Every agent that was ever spawned has exited, or does so by itself."""
    gc.collect()
    watch.wait(EventKind.AGENT_EXITED, watch.counts[EventKind.AGENT_SPAWNED])
    assert len(kernel.processes) == 0


def larger(left: str, right: str) -> str:
    """The reducer of all that is written."""
    return max(left, right)


class State(TypedDict, total=False):
    """The state of the graph: its branches write different keys, or one key twice."""

    text: Annotated[str, larger]
    left: Annotated[str, larger]
    right: Annotated[str, larger]
    inner: Annotated[str, larger]


def graph(llm: BaseChatModel, *, is_async: bool, streams: bool, **options: Any) -> Any:
    """Two parallel nodes and a subgraph, each of which asks the model."""

    def ask(state: State, key: str) -> dict[str, str]:
        if streams:
            return {key: "".join(chunk.text for chunk in llm.stream(state["text"]))}
        return {key: llm.invoke(state["text"]).text}

    async def aask(state: State, key: str) -> dict[str, str]:
        if streams:
            return {key: "".join([chunk.text async for chunk in llm.astream(state["text"])])}
        return {key: (await llm.ainvoke(state["text"])).text}

    def node(key: str) -> Any:
        async def aasked(state: State) -> dict[str, str]:
            return await aask(state, key)

        return aasked if is_async else lambda state: ask(state, key)

    inner = StateGraph(State)
    inner.add_node("within", node("inner"))
    inner.add_edge(START, "within")
    inner.add_edge("within", END)
    outer = StateGraph(State)
    for name, part in (("l", node("left")), ("r", node("right")), ("sub", inner.compile())):
        outer.add_node(name, part)
        outer.add_edge(START, name)
        outer.add_edge(name, END)
    return outer.compile(**options)


@pytest.mark.parametrize("streams", [False, True], ids=["invoke", "stream"])
def test_a_streamed_graph_is_one_agent(
    model: Model, as_default: Kernel, watch: EventWatcher, streams: bool
) -> None:
    ask = graph(model(), is_async=False, streams=streams, checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "a"}}

    for mode in ALL_STREAM_MODES:
        list(ask.stream({"text": "hi"}, config, stream_mode=mode, subgraphs=True))

    require_runs(watch, as_default, runs=len(ALL_STREAM_MODES), calls=3 * len(ALL_STREAM_MODES))
    assert set(watch.names().values()) == {"thread a"}


@pytest.mark.parametrize("streams", [False, True], ids=["invoke", "stream"])
async def test_streamed_graphs_on_one_thread_at_once_are_agents_of_their_own(
    model: Model, as_default: Kernel, watch: EventWatcher, streams: bool
) -> None:
    ask = graph(model(), is_async=True, streams=streams, checkpointer=InMemorySaver())

    async def run(mode: Any) -> None:
        config: RunnableConfig = {"configurable": {"thread_id": "a"}}
        async for _ in ask.astream({"text": "hi"}, config, stream_mode=mode):
            pass

    await asyncio.gather(*map(run, ALL_STREAM_MODES))

    require_runs(watch, as_default, runs=len(ALL_STREAM_MODES), calls=3 * len(ALL_STREAM_MODES))


@pytest.mark.parametrize("version", EVENT_VERSIONS)
@pytest.mark.parametrize("streams", [False, True], ids=["invoke", "stream"])
async def test_a_graph_whose_events_are_streamed_is_one_agent(
    model: Model, as_default: Kernel, watch: EventWatcher, version: Any, streams: bool
) -> None:
    ask = graph(model(), is_async=True, streams=streams)

    for _ in range(2):
        async for _event in await _events(ask, {"text": "hi"}, version):
            pass

    require_runs(watch, as_default, runs=2, calls=6)


@pytest.mark.parametrize("streams", [False, True], ids=["invoke", "stream"])
def test_a_graph_whose_events_are_streamed_on_a_thread_is_one_agent(
    model: Model, as_default: Kernel, watch: EventWatcher, streams: bool
) -> None:
    ask = graph(model(), is_async=False, streams=streams)

    for _ in range(2):
        list(ask.stream_events({"text": "hi"}, version="v3"))

    require_runs(watch, as_default, runs=2, calls=6)


@pytest.mark.parametrize("how", ["stream", "invoke", "batch", "batch_as_completed"])
def test_parallel_branches_of_a_chain_are_one_agent(
    model: Model, as_default: Kernel, watch: EventWatcher, how: str
) -> None:
    llm = model()
    chain: Runnable[Any, Any] = RunnableParallel(a=llm, b=llm | str, c=RunnableLambda(_speak(llm)))
    runs = 2 if "batch" in how else 1

    list(getattr(chain, how)(["hi"] * runs if "batch" in how else "hi"))

    require_runs(watch, as_default, runs=runs, calls=3 * runs)


@pytest.mark.parametrize("how", ["astream", "astream_log", "ainvoke", "abatch"])
async def test_parallel_branches_of_a_chain_are_one_agent_on_an_event_loop(
    model: Model, as_default: Kernel, watch: EventWatcher, how: str
) -> None:
    llm = model()
    chain: Runnable[Any, Any] = RunnableParallel(a=llm, b=llm | str, c=RunnableLambda(_speak(llm)))
    runs = 2 if how == "abatch" else 1

    answer = getattr(chain, how)(["hi"] * 2 if how == "abatch" else "hi")
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass
    else:
        await answer

    require_runs(watch, as_default, runs=runs, calls=3 * runs)


@pytest.mark.parametrize("version", EVENT_VERSIONS)
async def test_the_streamed_calls_of_one_task_are_its_agents_and_end_with_it(
    model: Model, as_default: Kernel, watch: EventWatcher, version: Any
) -> None:
    llm = model()

    async def work() -> None:
        async for _ in llm.astream("hi"):
            pass
        async for _ in await _events(llm, "hi", version):
            pass
        await llm.ainvoke("hi")

    await asyncio.create_task(work())

    assert len(watch.callers()) == 3
    await asyncio.to_thread(require_nobody, watch, as_default)


def test_a_streamed_call_with_a_thread_of_its_own_is_a_run(
    model: Model, as_default: Kernel, watch: EventWatcher
) -> None:
    config: RunnableConfig = {"metadata": {"thread_id": "7"}}

    list(model().stream("hi", config))
    list(model().stream("hi", config))

    require_runs(watch, as_default, runs=2, calls=2)
    assert set(watch.names().values()) == {"thread 7"}


@pytest.mark.parametrize("told", [{"aios_agent": "ann"}, {"thread_id": "ann"}], ids=str)
async def test_what_configurable_says_counts_however_a_model_is_called(
    model: Model, as_default: Kernel, watch: EventWatcher, told: dict[str, Any]
) -> None:
    llm, config = model(), RunnableConfig(configurable=told)

    llm.invoke("hi", config)
    await llm.ainvoke("hi", config)
    list(llm.stream("hi", config))
    async for _ in llm.astream("hi", config):
        pass
    for version in EVENT_VERSIONS:
        async for _event in await _events(llm, "hi", version, config):
            pass
    list(llm.stream_events("hi", config, version="v3"))

    assert len(watch.callers()) == 8
    assert {watch.names()[pid] for pid in watch.callers()} <= {"ann", "thread ann"}
    if "thread_id" in told:
        await asyncio.to_thread(require_nobody, watch, as_default)


async def test_the_calls_of_a_batch_are_those_of_whoever_asks(
    model: Model, watch: EventWatcher
) -> None:
    llm = model()

    llm.batch(["hi"] * 4)
    await llm.abatch(["hi"] * 4)
    list(llm.batch_as_completed(["hi"] * 4))
    async for _ in llm.abatch_as_completed(["hi"] * 4):
        pass

    assert len(watch.callers()) == 16
    assert len(set(watch.callers())) == 1


def test_a_streaming_thread_takes_its_agent_along(
    model: Model, as_default: Kernel, watch: EventWatcher
) -> None:
    thread = threading.Thread(target=lambda: list(model().stream("hi")))
    thread.start()
    thread.join()

    require_runs(watch, as_default, runs=1, calls=1)


def test_a_streamed_graph_that_outlives_its_loop_leaves_nothing(
    model: Model, as_default: Kernel, watch: EventWatcher
) -> None:
    ask = graph(model(), is_async=True, streams=True)

    async def leave() -> object:
        stream = ask.astream({"text": "hi"}, stream_mode="messages")
        await anext(stream)
        return stream

    kept = asyncio.run(leave())
    del kept

    require_nobody(watch, as_default)


def test_a_graph_with_another_thread_inside_of_a_run_is_an_agent_of_its_own(
    model: Model, as_default: Kernel, watch: EventWatcher
) -> None:
    llm = model()
    inner = graph(llm, is_async=False, streams=True)

    def work(text: str) -> str:
        llm.invoke(text)
        for number, thread in enumerate(("a", "b"), 1):
            list(inner.stream({"text": text}, {"configurable": {"thread_id": thread}}))
            watch.wait(EventKind.AGENT_EXITED, number)
        return "".join(chunk.text for chunk in llm.stream(text))

    RunnableLambda(work).invoke("hi")

    require_runs(watch, as_default, runs=3, calls=8)


@pytest.mark.parametrize("stream_mode", ["messages", "updates"])
def test_a_stream_left_half_read_leaves_nothing(
    model: Model, as_default: Kernel, watch: EventWatcher, stream_mode: Any
) -> None:
    ask = graph(model(), is_async=False, streams=True)

    with closing(ask.stream({"text": "hi"}, stream_mode=stream_mode)) as stream:
        next(stream)

    require_nobody(watch, as_default)


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_events_left_half_read_leave_nothing(
    model: Model, as_default: Kernel, watch: EventWatcher, version: Any
) -> None:
    ask = graph(model(), is_async=True, streams=True)

    async with aclosing(ask.astream_events({"text": "hi"}, version=version)) as events:
        async for event in events:
            if event["event"] == "on_chat_model_stream":
                break

    await asyncio.to_thread(require_nobody, watch, as_default)


async def test_an_asynchronous_stream_left_half_read_leaves_nothing(
    model: Model, as_default: Kernel, watch: EventWatcher
) -> None:
    ask = graph(model(), is_async=True, streams=True)

    async for _ in ask.astream({"text": "hi"}, stream_mode="messages"):
        break

    await asyncio.to_thread(require_nobody, watch, as_default)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_stream_that_fails_leaves_nothing(
    boot: Boot, watch: EventWatcher, is_async: bool
) -> None:
    def script(_: Any) -> str:
        raise OSError("no model today")

    kernel = boot(script)
    ask = graph(ChatAIOS(kernel=kernel), is_async=is_async, streams=True)

    async def read() -> None:
        if is_async:
            async for _ in ask.astream({"text": "hi"}, stream_mode="messages"):
                pass
        await asyncio.to_thread(list, ask.stream({"text": "hi"}, stream_mode="messages"))

    with pytest.raises((KernelError, OSError)):
        await read()

    await asyncio.to_thread(require_nobody, watch, kernel)


def test_an_agents_tools_call_as_the_run_that_streams(
    model: Model, as_default: Kernel, watch: EventWatcher
) -> None:
    llm = model()

    @tool
    def speak(text: str) -> str:
        """Stream an answer, and join it."""
        return "".join(chunk.text for chunk in llm.stream(text))

    def work(text: str) -> Iterator[str]:
        for chunk in llm.stream(text):
            yield chunk.text
        yield str(speak.invoke({"text": text}))

    list(RunnableLambda(work).stream("hi"))

    require_runs(watch, as_default, runs=1, calls=2)


# --- helpers -------------------------------------------------------------------------------------


def _speak(llm: BaseChatModel) -> Callable[[str], str]:
    return lambda text: "".join(chunk.text for chunk in llm.stream(text))


async def _events(
    runnable: Any, asked: Any, version: str, config: RunnableConfig | None = None
) -> AsyncIterator[Any]:
    events = runnable.astream_events(asked, config, version=version)
    return await events if version == "v3" else events  # type: ignore[no-any-return]
