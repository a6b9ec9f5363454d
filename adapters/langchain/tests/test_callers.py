"""The agent behind a call is found, kept for as long as it is needed, and made to exit."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from aios_adapters import CallerKind
from aios_core import EventKind, Kernel
from aios_core.errors import InvalidRequest, SyscallCancelled
from aios_core.testing.event_watcher import FOREVER_S, EventWatcher
from langchain_aios import ChatAIOS
from langchain_aios.callers import directory, tracker

from .conftest import Boot


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Runs and tasks are forgotten with their end; only threads and named agents may stay."""
    yield
    assert tracker.num_runs == 0
    kinds = {caller.kind for caller in directory.callers}
    assert kinds <= {CallerKind.NAMED, CallerKind.THREAD}


def talk(llm: ChatAIOS, num_calls: int = 2) -> RunnableLambda[Any, str]:
    """A chain that calls the model several times."""

    async def atalk(text: str) -> str:
        for _ in range(num_calls):
            text = (await llm.ainvoke(text)).text
        return text

    def talk_(text: str) -> str:
        for _ in range(num_calls):
            text = llm.invoke(text).text
        return text

    return RunnableLambda(talk_, atalk, name="talker")


# --- who it is -----------------------------------------------------------------------------------


def test_all_calls_of_a_run_are_one_agents_and_it_exits_with_the_run(
    kernel: Kernel, watch: EventWatcher
) -> None:
    talk(ChatAIOS(kernel=kernel)).invoke("hi")

    (pid,) = set(watch.callers())
    assert watch.names()[pid].startswith("talker-")
    watch.wait(EventKind.AGENT_EXITED)
    assert len(kernel.processes) == 0


async def test_parallel_runs_are_different_agents(kernel: Kernel, watch: EventWatcher) -> None:
    chain = talk(ChatAIOS(kernel=kernel))

    await asyncio.gather(*(chain.ainvoke(f"{n}") for n in range(5)))

    callers = watch.callers()
    assert len(callers) == 10
    assert len(set(callers)) == 5
    await watch.async_wait(EventKind.AGENT_EXITED, 5)


def test_a_run_inside_a_run_is_the_same_agent(kernel: Kernel, watch: EventWatcher) -> None:
    inner = talk(ChatAIOS(kernel=kernel))
    outer = RunnableLambda(lambda text: inner.invoke(inner.invoke(text)), name="outer")

    outer.invoke("hi")

    assert len(watch.callers()) == 4
    assert len(set(watch.callers())) == 1


def test_a_tool_that_calls_a_model_calls_as_the_run_that_it_serves(
    kernel: Kernel, watch: EventWatcher
) -> None:
    llm = ChatAIOS(kernel=kernel)

    @tool
    def ask(question: str) -> str:
        """Ask another model."""
        return llm.invoke(question).text

    def work(text: str) -> str:
        return str(ask.invoke({"question": llm.invoke(text).text}))

    RunnableLambda(work).invoke("hi")

    assert len(watch.callers()) == 2
    assert len(set(watch.callers())) == 1


def test_a_run_that_fails_leaves_no_agent(kernel: Kernel, watch: EventWatcher) -> None:
    llm = ChatAIOS(kernel=kernel)

    def fail(text: str) -> None:
        llm.invoke(text)
        raise OSError(text)

    with pytest.raises(OSError, match="hi"):
        RunnableLambda(fail).invoke("hi")

    watch.wait(EventKind.AGENT_EXITED)


async def test_a_cancelled_run_leaves_no_agent(boot: Boot, watch: EventWatcher) -> None:
    kernel = boot(latency_s=FOREVER_S)
    run = asyncio.create_task(talk(ChatAIOS(kernel=kernel)).ainvoke("hi"))
    await watch.async_wait(EventKind.DISPATCHED)

    run.cancel()
    await asyncio.wait([run])

    await watch.async_wait(EventKind.AGENT_EXITED)
    assert len(kernel.processes) == 0


def graph(llm: ChatAIOS) -> Any:
    """A LangGraph of one node that asks the model."""

    async def ask(state: MessagesState) -> dict[str, list[AIMessage]]:
        return {"messages": [await llm.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile()


async def test_runs_of_one_conversation_are_agents_of_its_name(
    kernel: Kernel, watch: EventWatcher
) -> None:
    ask = graph(ChatAIOS(kernel=kernel))
    turns = {"messages": [("user", "hi")]}

    for thread in ("a", "b", "a"):
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        await ask.ainvoke(turns, config)

    first, second, third = watch.callers()
    assert len({first, second, third}) == 3
    assert [watch.names()[pid] for pid in watch.callers()] == ["thread a", "thread b", "thread a"]
    await watch.async_wait(EventKind.AGENT_EXITED, 3)


async def test_runs_of_langgraph_without_a_thread_are_different_agents(
    kernel: Kernel, watch: EventWatcher
) -> None:
    ask = graph(ChatAIOS(kernel=kernel))

    await asyncio.gather(*(ask.ainvoke({"messages": [("user", "hi")]}) for _ in range(3)))

    assert len(set(watch.callers())) == 3
    await watch.async_wait(EventKind.AGENT_EXITED, 3)


def test_a_name_on_the_model_goes_before_what_is_found(kernel: Kernel, watch: EventWatcher) -> None:
    chain = talk(ChatAIOS(kernel=kernel, agent="ann", group="research"))

    chain.invoke("one")
    chain.invoke("two")

    (pid,) = set(watch.callers())
    (ann,) = kernel.processes
    assert (ann.pid, ann.name, ann.group.name) == (pid, "ann", "research")


def test_a_name_in_the_config_goes_before_that_on_the_model(kernel: Kernel) -> None:
    settings = {"aios_agent": "bob", "aios_group": "ops", "aios_priority": 3, "aios_weight": 2}

    ChatAIOS(kernel=kernel, agent="ann").invoke("hi", config={"metadata": settings})

    (bob,) = kernel.processes
    assert (bob.name, bob.group.name, bob.priority, bob.weight) == ("bob", "ops", 3, 2.0)


def test_configurable_keys_count_too_inside_a_run(kernel: Kernel) -> None:
    talk(ChatAIOS(kernel=kernel)).invoke("hi", config={"configurable": {"aios_agent": "eve"}})

    assert [process.name for process in kernel.processes] == ["eve"]


@pytest.mark.parametrize(
    ("told", "name"), [({"aios_agent": "ann"}, "ann"), ({"thread_id": "7"}, "thread 7")]
)
async def test_configurable_keys_count_for_a_model_that_is_called_directly(
    told: dict[str, str], name: str, kernel: Kernel, watch: EventWatcher
) -> None:
    llm, config = ChatAIOS(kernel=kernel), RunnableConfig(configurable=told)

    llm.invoke("hi", config)
    await llm.ainvoke("hi", config)
    list(llm.stream("hi", config))
    async for _ in llm.astream("hi", config):
        pass
    llm.with_config(configurable=told).invoke("hi")

    assert len(watch.callers()) == 5
    assert {watch.names()[pid] for pid in watch.callers()} == {name}


async def test_the_calls_of_a_batch_are_those_of_whoever_asks(
    kernel: Kernel, watch: EventWatcher
) -> None:
    llm = ChatAIOS(kernel=kernel)

    llm.batch(["hi"] * 8)
    assert len(set(watch.callers())) == 1
    await llm.abatch(["hi"] * 8)
    list(llm.batch_as_completed(["hi"] * 8))
    async for _ in llm.abatch_as_completed(["hi"] * 8):
        pass
    assert len(watch.callers()) == 32
    assert len(set(watch.callers())) == 1


@pytest.mark.parametrize("how", ["batch", "batch_as_completed"])
def test_the_calls_of_a_batch_inside_a_run_are_the_runs(
    kernel: Kernel, watch: EventWatcher, how: str
) -> None:
    llm = ChatAIOS(kernel=kernel)

    RunnableLambda(lambda texts: list(getattr(llm, how)(texts)), name="worker").invoke(["hi"] * 8)

    (pid,) = set(watch.callers())
    assert watch.names()[pid].startswith("worker-")


def test_a_stream_that_langchain_makes_a_call_of_knows_its_config_too(kernel: Kernel) -> None:
    llm = ChatAIOS(kernel=kernel, disable_streaming=True)

    list(llm.stream("hi", {"configurable": {"aios_agent": "ann"}}))

    (core,) = kernel.pool
    assert [process.name for process in kernel.processes] == ["ann"]
    assert core.requests[-1].extra == {}  # type: ignore[attr-defined]


def test_an_unknown_setting_in_the_config_is_refused(kernel: Kernel) -> None:
    with pytest.raises(InvalidRequest, match="aios_prio: no such setting; allowed: aios_agent"):
        ChatAIOS(kernel=kernel).invoke("hi", {"metadata": {"aios_prio": 1}})


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ({"modle": "tiny"}, "did you mean 'model'"),
        ({"prio": 1}, "did you mean 'priority'"),
        ({"max_completion_tokens": 9}, ".*'max_tokens'"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_known_ones(
    said: dict[str, Any], hint: str
) -> None:
    (key,) = said
    with pytest.raises(InvalidRequest, match=f"^{key}: no such argument; {hint}"):
        ChatAIOS(**said)


def test_what_names_a_provider_is_ignored() -> None:
    assert ChatAIOS(api_key="secret", base_url="http://x", max_retries=2).model is None  # type: ignore[call-arg]


def test_what_is_said_of_a_named_agent_later_is_said_to_have_no_effect(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    ChatAIOS(kernel=kernel, agent="later").invoke("hi")
    for _ in range(2):
        ChatAIOS(kernel=kernel, agent="later", priority=1).invoke("hi")

    assert caplog.text.count("agent 'later' exists already") == 1


def test_a_bad_setting_in_the_config_is_refused_by_its_name(kernel: Kernel) -> None:
    with pytest.raises(InvalidRequest, match="aios_weight: got 'heavy'"):
        ChatAIOS(kernel=kernel).invoke("hi", config={"metadata": {"aios_weight": "heavy"}})


def test_an_agent_of_the_kernel_can_be_given(kernel: Kernel, watch: EventWatcher) -> None:
    with kernel.spawn("mine") as mine:
        ChatAIOS(agent=mine).invoke("hi")

    assert watch.callers() == [mine.pid]


async def test_a_call_outside_any_run_is_its_tasks_and_ends_with_it(
    kernel: Kernel, watch: EventWatcher
) -> None:
    llm = ChatAIOS(kernel=kernel)

    async def loop() -> None:
        await llm.ainvoke("one")
        await llm.ainvoke("two")

    await asyncio.gather(loop(), loop())

    assert len(watch.callers()) == 4
    assert len(set(watch.callers())) == 2
    await watch.async_wait(EventKind.AGENT_EXITED, 2)


def test_a_task_that_ends_with_its_loop_leaves_no_agent(
    kernel: Kernel, watch: EventWatcher
) -> None:
    asyncio.run(_asked(ChatAIOS(kernel=kernel)))

    watch.wait(EventKind.AGENT_EXITED)


async def _asked(llm: ChatAIOS) -> None:
    await llm.ainvoke("hi")


def test_a_call_outside_any_run_and_task_is_its_threads(
    kernel: Kernel, watch: EventWatcher
) -> None:
    llm = ChatAIOS(kernel=kernel)

    def work() -> None:
        llm.invoke("one")
        llm.invoke("two")

    threads = [threading.Thread(target=work, name=f"worker {n}") for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(watch.names().values()) == ["worker 0", "worker 1"]
    assert len(set(watch.callers())) == 2


def test_killing_the_agent_of_a_run_ends_what_the_run_can_do(kernel: Kernel) -> None:
    llm = ChatAIOS(kernel=kernel)

    def work(text: str) -> str:
        llm.invoke(text)
        (agent,) = kernel.processes
        kernel.exit(agent.pid)
        return llm.invoke(text).text

    with pytest.raises(SyscallCancelled, match="exited"):
        RunnableLambda(work).invoke("hi")


def test_a_stream_that_outlives_its_loop_says_nothing(
    boot: Boot, watch: EventWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = boot(lambda _: "word " * 1000, token_s=0.001)

    async def leave() -> object:
        stream = ChatAIOS(kernel=kernel).astream("hi")
        await anext(stream)
        return stream

    kept = asyncio.run(leave())
    del kept
    gc.collect()

    watch.wait(EventKind.CANCELLED)
    assert caplog.messages == []
