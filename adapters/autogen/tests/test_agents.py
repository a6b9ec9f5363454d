"""AgentChat's agents and teams on the kernel, each agent found by itself."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import (
    ModelClientStreamingChunkEvent,
    StructuredMessage,
    ToolCallExecutionEvent,
    ToolCallRequestEvent,
)
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_agentchat.tools import AgentTool
from autogen_core import (
    AgentId,
    CancellationToken,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    message_handler,
)
from autogen_core.models import UserMessage
from pydantic import BaseModel

from aios_core import EventKind, Kernel, Message, ToolCall
from aios_core.errors import SyscallCancelled
from aios_core.testing import EventWatcher, cooperative_script
from aios_core.testing.event_watcher import FOREVER_S
from autogen_aios import AIOSChatCompletionClient

from .conftest import Boot


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def last_text(result: TaskResult) -> str:
    return str(result.messages[-1].to_text())  # type: ignore[union-attr]


def writer(kernel: Kernel, name: str = "writer", **settings: Any) -> AssistantAgent:
    return AssistantAgent(name, AIOSChatCompletionClient(kernel=kernel), **settings)


# --- what agents do ------------------------------------------------------------------------------


async def test_an_agent_calls_its_tool_and_reads_the_result(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agent = writer(kernel, tools=[add], reflect_on_tool_use=True)

    result = await agent.run(task="add 3 and 4")

    assert last_text(result) == "The tool said: 7"
    assert watch.names() == {watch.callers()[0]: "writer"}
    assert len(watch.callers()) == 2


async def test_parallel_tool_calls_are_all_run(boot: Boot) -> None:
    calls = [ToolCall("c1", "add", '{"a": 1, "b": 2}'), ToolCall("c2", "add", '{"a": 3, "b": 4}')]
    agent = writer(boot([calls]), tools=[add])

    result = await agent.run(task="add")

    kinds = [type(message) for message in result.messages]
    assert kinds[1:3] == [ToolCallRequestEvent, ToolCallExecutionEvent]
    assert last_text(result) == "3\n7"


async def test_an_agent_streams_its_answer(boot: Boot) -> None:
    agent = writer(boot(token_s=0.001), model_client_stream=True)

    items = [item async for item in agent.run_stream(task="a b")]

    pieces = [item.content for item in items if isinstance(item, ModelClientStreamingChunkEvent)]
    assert len(pieces) > 1
    assert "".join(pieces) == last_text(items[-1]) == "You said: a b"  # type: ignore[arg-type]


class Joke(BaseModel):
    setup: str
    punchline: str


async def test_an_agent_answers_with_an_object(kernel: Kernel) -> None:
    agent = writer(kernel, output_content_type=Joke)

    message = (await agent.run(task="a joke")).messages[-1]

    assert isinstance(message, StructuredMessage)
    assert isinstance(message.content, Joke)


async def test_cancelling_a_run_frees_the_slot(boot: Boot, watch: EventWatcher) -> None:
    agent, token = writer(boot(latency_s=FOREVER_S)), CancellationToken()
    run = asyncio.create_task(agent.run(task="hi", cancellation_token=token))
    await watch.async_wait(EventKind.DISPATCHED)

    token.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
    await watch.async_wait(EventKind.CANCELLED)


async def test_an_agent_stopped_by_its_budget_says_so_in_the_frameworks_error(
    kernel: Kernel,
) -> None:
    client = AIOSChatCompletionClient(kernel=kernel, budget={"calls": 1})
    team = RoundRobinGroupChat(
        [AssistantAgent("poor", client)], termination_condition=MaxMessageTermination(5)
    )

    with pytest.raises(RuntimeError, match=r"BudgetExceeded: agent 'poor'.*calls"):
        await team.run(task="hi")


# --- teams ---------------------------------------------------------------------------------------


async def test_each_agent_of_a_round_robin_is_an_agent_of_the_kernel(
    kernel: Kernel, watch: EventWatcher
) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    agents = [AssistantAgent(name, client) for name in ("ann", "bob")]
    team = RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(5))

    result = await team.run(task="hi")

    assert [message.source for message in result.messages] == ["user", "ann", "bob", "ann", "bob"]
    names = watch.names()
    assert [names[pid] for pid in watch.callers()] == ["ann", "bob", "ann", "bob"]
    assert len(names) == 2


def naming(*names: str) -> Any:
    """Picks the speakers in turn, and is cooperative_script to everything else."""
    turns = iter(names)

    def script(request: Any) -> Message:
        if "Read the above conversation" in request.messages[0].content:
            return Message("assistant", next(turns))
        return cooperative_script(request)

    return script


async def test_the_manager_of_a_selector_group_chat_is_an_agent_too(
    boot: Boot, watch: EventWatcher
) -> None:
    client = AIOSChatCompletionClient(kernel=boot(naming("bob", "ann")))
    agents = [AssistantAgent(name, client, description=name) for name in ("ann", "bob", "eve")]
    team = SelectorGroupChat(agents, client, termination_condition=MaxMessageTermination(3))

    result = await team.run(task="hi")

    assert [message.source for message in result.messages] == ["user", "bob", "ann"]
    names = watch.names()
    said = [names[pid] for pid in watch.callers()]
    assert said == ["SelectorGroupChatManager", "bob", "SelectorGroupChatManager", "ann"]


async def test_an_agent_as_a_tool_of_another_is_an_agent_of_its_own(
    boot: Boot, watch: EventWatcher
) -> None:
    script = [ToolCall("c1", "helper", '{"task": "help me"}'), "helped", "done"]
    client = AIOSChatCompletionClient(kernel=boot(script))
    helper = AgentTool(AssistantAgent("helper", client, description="helps"))
    boss = AssistantAgent("boss", client, tools=[helper], reflect_on_tool_use=True)

    result = await boss.run(task="go")

    assert last_text(result) == "done"
    assert [watch.names()[pid] for pid in watch.callers()] == ["boss", "helper", "boss"]


@pytest.mark.usefixtures("as_default")
async def test_a_team_can_be_written_down_and_goes_on_elsewhere() -> None:
    agents = [AssistantAgent(name, AIOSChatCompletionClient()) for name in ("ann", "bob")]
    team = RoundRobinGroupChat(agents, termination_condition=MaxMessageTermination(3))
    await team.run(task="one")

    again = RoundRobinGroupChat.load_component(team.dump_component())
    await again.load_state(await team.save_state())
    await again.reset()
    result = await again.run(task="two")

    assert [message.source for message in result.messages] == ["user", "ann", "bob"]


def test_agents_and_their_client_go_from_one_loop_to_the_next(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agents = [writer(kernel, name) for name in ("ann", "bob")]

    async def run() -> str:
        team = RoundRobinGroupChat(list(agents), termination_condition=MaxMessageTermination(3))
        return last_text(await team.run(task="hi"))

    assert all(asyncio.run(run()).endswith("hi") for _ in range(2))
    assert len(watch.callers()) == 4
    assert len(set(watch.callers())) == 2


# --- agents of autogen_core ----------------------------------------------------------------------


@dataclass
class Question:
    text: str


class Worker(RoutedAgent):
    """An agent that calls the model, in a task of its own if configured."""

    def __init__(self, client: AIOSChatCompletionClient, *, in_a_task: bool) -> None:
        super().__init__("works")
        self._client = client
        self._in_a_task = in_a_task

    @message_handler
    async def on_question(self, message: Question, ctx: MessageContext) -> str:
        asked = self._client.create(
            [UserMessage(content=message.text, source="user")],
            cancellation_token=ctx.cancellation_token,
        )
        result = await (asyncio.create_task(asked) if self._in_a_task else asked)
        return str(result.content)


@pytest.mark.parametrize("in_a_task", [False, True])
async def test_an_agent_of_the_runtime_is_found_by_its_message(
    kernel: Kernel, watch: EventWatcher, *, in_a_task: bool
) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    runtime = SingleThreadedAgentRuntime()
    await Worker.register(runtime, "worker", lambda: Worker(client, in_a_task=in_a_task))
    runtime.start()

    for key in ("one", "one", "two"):
        await runtime.send_message(Question("hi"), AgentId("worker", key))
    await runtime.stop()

    first, second, third = watch.callers()
    assert first == second != third
    assert set(watch.names().values()) == {"worker"}


# --- who it is, and for how long -----------------------------------------------------------------


async def test_an_agents_runs_are_one_agent_and_it_exits_when_it_is_forgotten(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agent = writer(kernel)
    await agent.run(task="one")
    await agent.run(task="two")
    assert len(set(watch.callers())) == 1

    del agent
    gc.collect()

    await watch.async_wait(EventKind.AGENT_EXITED)


async def test_agents_of_one_name_are_different_agents(kernel: Kernel, watch: EventWatcher) -> None:
    agents = [writer(kernel), writer(kernel)]

    await asyncio.gather(*(agent.run(task="hi") for agent in agents))

    assert len(set(watch.callers())) == 2


async def test_a_call_outside_any_agent_is_its_tasks(kernel: Kernel, watch: EventWatcher) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)

    async def loop() -> None:
        for _ in range(2):
            await client.create([UserMessage(content="hi", source="user")])

    await asyncio.gather(loop(), loop())

    assert len(set(watch.callers())) == 2
    await watch.async_wait(EventKind.AGENT_EXITED, 2)


async def test_a_name_in_the_call_goes_before_that_on_the_client_and_both_before_what_is_found(
    kernel: Kernel,
) -> None:
    client = AIOSChatCompletionClient(kernel=kernel, agent="ann", group="research")
    said = {"agent": "bob", "group": "ops", "priority": 3, "weight": 2, "budget": {"tokens": 500}}
    message = [UserMessage(content="hi", source="user")]

    await client.create(message)
    await client.create(message, extra_create_args={"aios": said})

    ann, bob = kernel.processes
    assert (ann.name, ann.group.name) == ("ann", "research")
    assert (bob.name, bob.group.name, bob.priority, bob.weight) == ("bob", "ops", 3, 2.0)
    assert bob.budget.limits.tokens == 500


async def test_an_agent_of_the_kernel_can_be_given(kernel: Kernel, watch: EventWatcher) -> None:
    with kernel.spawn("mine") as mine:
        client = AIOSChatCompletionClient(agent=mine)
        await AssistantAgent("theirs", client).run(task="hi")

    assert watch.callers() == [mine.pid]


async def test_an_agent_that_is_killed_stops_with_the_reason_and_stays_dead(
    boot: Boot, watch: EventWatcher
) -> None:
    kernel = boot(latency_s=FOREVER_S)
    agent = writer(kernel)
    run = asyncio.create_task(agent.run(task="hi"))
    await watch.async_wait(EventKind.DISPATCHED)

    (process,) = kernel.processes
    await kernel.aexit(process.pid)

    with pytest.raises(SyscallCancelled, match="'writer' exited"):
        await run
    with pytest.raises(SyscallCancelled, match="'writer' has exited"):
        await agent.run(task="again")
