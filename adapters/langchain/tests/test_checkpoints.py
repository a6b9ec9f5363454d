"""`AIOSSaver`: LangGraph's conformance suite, both halves, and what survives a kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from aios_adapters import AgentSettings, Caller
from aios_core import InvalidRequest, Kernel, KernelConfig
from aios_core import tool as aios_tool
from aios_core.cores import ScriptedCore
from langchain_aios import AIOSSaver
from langchain_aios.callers import agent_ref, directory

from .conftest import WallClock


class State(TypedDict, total=False):
    count: int
    said: str


def counter(saver: BaseCheckpointSaver[Any]) -> Any:
    graph = StateGraph(State)
    graph.add_node("add", lambda state: {"count": state.get("count", 0) + 1})
    graph.add_edge(START, "add")
    graph.add_edge("add", END)
    return graph.compile(checkpointer=saver)


def asking(saver: BaseCheckpointSaver[Any]) -> Any:
    graph = StateGraph(State)
    graph.add_node("ask", lambda _state: {"said": interrupt("what?")})
    graph.add_edge(START, "ask")
    return graph.compile(checkpointer=saver)


def kernel_on(directory: Path) -> Kernel:
    config = KernelConfig(state={"directory": str(directory)})  # type: ignore[arg-type]
    return Kernel(config, cores=[ScriptedCore("ok")])


THREAD: Any = {"configurable": {"thread_id": "t"}}


async def test_the_conformance_suite_passes_in_full(kernel: Kernel) -> None:
    number = iter(range(10_000))

    @checkpointer_test(name="AIOSSaver")
    async def saver() -> AsyncIterator[AIOSSaver]:
        yield AIOSSaver(f"conformance-{next(number)}", kernel=kernel)

    report = await validate(saver)

    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert not failures
    assert report.passed_all()


class TestBothHalves:
    def test_a_graph_goes_on_where_it_was(self, kernel: Kernel) -> None:
        graph = counter(AIOSSaver(kernel=kernel))

        assert [graph.invoke({}, THREAD)["count"] for _ in range(3)] == [1, 2, 3]

    async def test_a_graph_goes_on_where_it_was_on_a_loop(self, kernel: Kernel) -> None:
        graph = counter(AIOSSaver(kernel=kernel))

        assert [(await graph.ainvoke({}, THREAD))["count"] for _ in range(3)] == [1, 2, 3]

    async def test_one_half_reads_what_the_other_wrote(self, kernel: Kernel) -> None:
        saver = AIOSSaver(kernel=kernel)
        await counter(saver).ainvoke({}, THREAD)

        found = saver.get_tuple(THREAD)

        assert found is not None
        assert found.checkpoint["channel_values"]["count"] == 1
        assert len(list(saver.list(THREAD))) == len([one async for one in saver.alist(THREAD)])

    def test_a_graph_that_asks_goes_on_with_the_answer(self, kernel: Kernel) -> None:
        graph = asking(AIOSSaver(kernel=kernel))

        graph.invoke({}, THREAD)

        assert graph.invoke(Command(resume="that"), THREAD)["said"] == "that"

    def test_time_travel(self, kernel: Kernel) -> None:
        graph = counter(AIOSSaver(kernel=kernel))
        for _ in range(3):
            graph.invoke({}, THREAD)
        first = next(s for s in graph.get_state_history(THREAD) if s.values.get("count") == 1)

        assert graph.invoke({}, first.config)["count"] == 2

    def test_threads_and_savers_do_not_see_one_another(self, kernel: Kernel) -> None:
        counter(AIOSSaver("a", kernel=kernel)).invoke({}, THREAD)

        assert AIOSSaver("b", kernel=kernel).get_tuple(THREAD) is None
        other: Any = {"configurable": {"thread_id": "t/../t"}}
        assert AIOSSaver("a", kernel=kernel).get_tuple(other) is None

    def test_writes_that_come_again_change_nothing(self, kernel: Kernel) -> None:
        saver, checkpoint = AIOSSaver(kernel=kernel), empty_checkpoint()
        config = saver.put(
            {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, checkpoint, {}, {}
        )
        saver.put_writes(config, [("channel", 1)], "task")
        saver.put_writes(config, [("channel", 2)], "task")

        found = saver.get_tuple(config)

        assert found is not None
        assert found.pending_writes == [("task", "channel", 1)]

    def test_a_strategy_that_is_none_is_refused(self, kernel: Kernel) -> None:
        with pytest.raises(ValueError, match="allowed: 'keep_latest', 'delete'"):
            AIOSSaver(kernel=kernel).prune(["t"], strategy="some")


def test_checkpoints_outlive_their_kernel(tmp_path: Path) -> None:
    with kernel_on(tmp_path) as kernel:
        asking(AIOSSaver(kernel=kernel)).invoke({}, THREAD)

    with kernel_on(tmp_path) as kernel:
        graph = asking(AIOSSaver(kernel=kernel))
        assert graph.invoke(Command(resume="later"), THREAD)["said"] == "later"


class TestOrder:
    def test_a_listing_is_in_the_order_of_the_saver_in_memory(self, kernel: Kernel) -> None:
        savers = (InMemorySaver(), AIOSSaver(kernel=kernel))
        for saver in savers:
            for thread, namespace, number in (
                *(("z", "", n) for n in (1, 2)),
                *(("a", "zoo:1", n) for n in (3, 4)),
                *(("a", "", n) for n in (5, 6)),
                ("z", "sub:1", 7),
                ("z", "", 8),
            ):
                checkpoint = {**empty_checkpoint(), "id": f"{number:04}"}
                config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
                saver.put(config, checkpoint, {"step": number}, {})  # type: ignore[arg-type]

        for asked in (
            {"config": None},
            {"config": None, "limit": 3},
            {"config": {"configurable": {"thread_id": "a"}}},
            {"config": {"configurable": {"thread_id": "z", "checkpoint_ns": ""}}},
            {"config": None, "before": {"configurable": {"checkpoint_id": "0006"}}},
            {"config": None, "filter": {"step": 7}},
            {"config": {"configurable": {"thread_id": "z"}}, "limit": 0},
        ):
            reference, ours = ([one.config for one in saver.list(**asked)] for saver in savers)  # type: ignore[arg-type]
            assert ours == reference, asked

    async def test_so_is_one_of_the_other_half(self, kernel: Kernel) -> None:
        saver = AIOSSaver(kernel=kernel)
        await counter(saver).ainvoke({}, THREAD)

        found = [one.config async for one in saver.alist(None)]

        assert found == [one.config for one in saver.list(None)]


def appended(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(text for write in writes for text in write)]


class Log(TypedDict):
    texts: Annotated[list[str], DeltaChannel(appended, snapshot_frequency=4)]


def logger(saver: BaseCheckpointSaver[Any]) -> Any:
    graph = StateGraph(Log)
    graph.add_node("log", lambda _state: {"texts": ["x"]})
    graph.add_edge(START, "log")
    graph.add_edge("log", END)
    return graph.compile(checkpointer=saver)


class TestForgetting:
    def test_only_the_newest_checkpoints_are_kept(self, kernel: Kernel) -> None:
        saver = AIOSSaver(kernel=kernel, max_checkpoints=3)
        graph = counter(saver)

        counts = [graph.invoke({}, THREAD)["count"] for _ in range(5)]

        assert counts == [1, 2, 3, 4, 5]
        assert len(list(saver.list(THREAD))) == 3

    @pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
    @pytest.mark.parametrize("how", ["max_checkpoints", "prune"])
    def test_what_a_kept_one_is_made_from_is_kept(self, kernel: Kernel, how: str) -> None:
        saver = AIOSSaver(kernel=kernel, max_checkpoints=1 if how == "max_checkpoints" else None)
        graph = logger(saver)

        for number in range(1, 15):
            assert len(graph.invoke({"texts": ["in"]}, THREAD)["texts"]) == 2 * number
            if how == "prune":
                saver.prune(["t"])

        assert len(graph.get_state(THREAD).values["texts"]) == 28
        assert len(list(saver.list(THREAD))) < 14

    def test_no_checkpoints_at_all_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="max_checkpoints: got 0"):
            AIOSSaver(max_checkpoints=0)

    def test_a_thread_that_nobody_uses_is_forgotten_as_a_whole(self, kernel: Kernel) -> None:
        clock = WallClock(kernel)
        saver = AIOSSaver(kernel=kernel, ttl={"default_ttl": 10})
        graph = counter(saver)
        other: Any = {"configurable": {"thread_id": "other"}}
        graph.invoke({}, THREAD)
        graph.invoke({}, other)
        num_checkpoints = len(list(saver.list(THREAD)))

        clock.pass_minutes(6)
        assert graph.get_state(THREAD).values == {"count": 1}
        clock.pass_minutes(6)

        assert len(list(saver.list(THREAD))) == num_checkpoints
        assert list(saver.list(other)) == []
        assert saver.sweep_ttl() == num_checkpoints

    async def test_reading_can_leave_the_time_alone(self, kernel: Kernel) -> None:
        clock = WallClock(kernel)
        saver = AIOSSaver(kernel=kernel, ttl={"default_ttl": 10, "refresh_on_read": False})
        await counter(saver).ainvoke({}, THREAD)

        clock.pass_minutes(6)
        await saver.aget_tuple(THREAD)
        clock.pass_minutes(6)

        assert await saver.aget_tuple(THREAD) is None
        assert await saver.asweep_ttl() > 0


# --- labels of checkpoints ------------------------------------------------------------------------


def _run(kernel: Kernel, saver: AIOSSaver, thread: str, *, reads_web: bool = False) -> set[str]:
    """One run of a graph on a thread; the labels of its agent at its end."""
    labels: set[str] = set()

    @aios_tool(read_only=True, trusted=False)
    def web() -> str:
        """A page."""
        return "page"

    def read(state: dict[str, Any]) -> dict[str, Any]:
        if reads_web:
            with agent_ref(kernel=kernel).use() as agent:
                agent.tools.offer(web)
                agent.tools.run("web")
        return {"notes": [*state.get("notes", ()), "read" if reads_web else "thought"]}

    def end(_: dict[str, Any]) -> dict[str, Any]:
        with agent_ref(kernel=kernel).use() as agent:
            labels.update(agent._process.labels)
        return {}

    graph: Any = StateGraph(dict)
    graph.add_node("read", read)
    graph.add_node("end", end)
    graph.add_edge(START, "read")
    graph.add_edge("read", "end")
    graph.compile(checkpointer=saver).invoke({}, {"configurable": {"thread_id": thread}})
    return labels


def test_a_run_that_loads_a_checkpoint_gets_the_labels_of_the_run_that_wrote_it(
    kernel: Kernel,
) -> None:
    saver = AIOSSaver(kernel=kernel)

    assert _run(kernel, saver, "1", reads_web=True) == {"tool:web"}
    assert _run(kernel, saver, "2") == set(), "another thread has read nothing"
    assert _run(kernel, saver, "1") == {"tool:web"}, "what it goes on from was read from the web"
    assert _run(kernel, saver, "2") == set()


def test_a_named_agent_gets_the_labels_of_the_checkpoint_that_it_loads(kernel: Kernel) -> None:
    saver = AIOSSaver(kernel=kernel)
    _run(kernel, saver, "1", reads_web=True)

    found = saver.get_tuple({"configurable": {"thread_id": "1", "aios_agent": "reader"}})

    assert found is not None
    with directory.use(kernel, Caller.named("reader"), AgentSettings()) as agent:
        assert agent._process.labels == {"tool:web"}
