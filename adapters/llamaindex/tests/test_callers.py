"""The agent behind a call is found: named, by its run, or by the task that calls."""

from __future__ import annotations

import asyncio
import threading

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.workflow import Context
from llama_index.llms.aios import AIOSLLM

from aios_core import EventKind, InvalidRequest, Kernel
from aios_core.testing.event_watcher import FOREVER_S, EventWatcher
from llama_index_aios.callers import directory

from .conftest import Boot


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def worker(kernel: Kernel, name: str = "worker") -> FunctionAgent:
    return FunctionAgent(
        name=name, description="adds", llm=AIOSLLM(kernel=kernel), tools=[add], timeout=20
    )


class TestWhoseCall:
    async def test_all_calls_of_a_run_are_one_agents(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        response = await worker(kernel).run("add 3 and 4")

        assert str(response) == "The tool said: 7"
        assert len(watch.callers()) == 2
        assert len(set(watch.callers())) == 1
        assert next(iter(watch.names().values())).startswith("worker-")

    async def test_the_agent_exits_with_its_run(self, kernel: Kernel, watch: EventWatcher) -> None:
        await worker(kernel).run("add 3 and 4")

        await watch.async_wait(EventKind.AGENT_EXITED)
        assert len(kernel.processes) == 0

    async def test_two_runs_are_two_agents(self, kernel: Kernel, watch: EventWatcher) -> None:
        await asyncio.gather(worker(kernel).run("add 1 and 2"), worker(kernel).run("add 3 and 4"))

        assert len(set(watch.callers())) == 2

    async def test_the_agents_of_a_workflow_are_one_family_of_calls(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        team = AgentWorkflow([worker(kernel, "one")], root_agent="one", timeout=20)

        await team.run("add 3 and 4")

        assert len(set(watch.callers())) == 1

    def test_a_named_agent_keeps_its_process_between_calls(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        llm = AIOSLLM(kernel=kernel, agent="clerk", group="office")
        llm.complete("a")
        llm.complete("b")

        assert len(set(watch.callers())) == 1
        (process,) = kernel.processes
        assert (process.name, process.group.name) == ("clerk", "office")

    async def test_tags_name_the_agent_and_its_settings(self, kernel: Kernel) -> None:
        with instrument_tags({"aios_agent": "night shift", "aios_priority": 7}):
            await AIOSLLM(kernel=kernel).acomplete("a")

        (process,) = kernel.processes
        assert (process.name, process.priority) == ("night shift", 7)

    def test_calls_outside_any_run_belong_to_their_thread(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        llm = AIOSLLM(kernel=kernel)
        llm.complete("a")
        thread = threading.Thread(target=llm.complete, args=("b",))
        thread.start()
        thread.join()

        assert len(set(watch.callers())) == 2

    async def test_an_agent_that_is_given_makes_the_calls(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        agent = await kernel.aspawn("mine")

        await AIOSLLM(agent=agent).acomplete("a")

        assert watch.callers() == [agent.pid]

    async def test_a_tag_that_is_spelled_wrong_does_not_vanish(self, kernel: Kernel) -> None:
        said = instrument_tags({"aios_agent": "ann", "aios_prio": 1})

        with said, pytest.raises(InvalidRequest, match="aios_prio"):
            await AIOSLLM(kernel=kernel).acomplete("a")


class TestRuns:
    async def test_memory_across_turns(self, kernel: Kernel) -> None:
        agent = worker(kernel)
        context, memory = Context(agent), ChatMemoryBuffer.from_defaults(token_limit=4_000)

        await agent.run("add 3 and 4", ctx=context, memory=memory)
        await agent.run("add 5 and 6", ctx=context, memory=memory)

        said = [message.content for message in await memory.aget_all()]
        assert [text for text in said if text and text.startswith("The tool")] == [
            "The tool said: 7",
            "The tool said: 11",
        ]

    async def test_a_react_agent_reads_the_models_text(self, boot: Boot) -> None:
        script = [
            "Thought: I need a tool.\nAction: add\nAction Input: {'a': 3, 'b': 4}".replace(
                "'", '"'
            ),
            "Thought: I can answer.\nAnswer: 7",
        ]
        agent = ReActAgent(llm=AIOSLLM(kernel=boot(script)), tools=[add], timeout=20)

        assert str(await agent.run("3 + 4?")) == "7"

    async def test_cancelling_a_run_frees_its_slot(self, boot: Boot, watch: EventWatcher) -> None:
        handler = worker(boot("slow", latency_s=FOREVER_S)).run("add 3 and 4")
        await watch.async_wait(EventKind.DISPATCHED)

        await handler.cancel_run()

        await watch.async_wait(EventKind.CANCELLED)
        directory.check()
