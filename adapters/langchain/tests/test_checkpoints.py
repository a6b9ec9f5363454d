"""`AIOSSaver`: LangGraph's conformance suite, both halves, and what survives a kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from aios_core import Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from langchain_aios import AIOSSaver


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
