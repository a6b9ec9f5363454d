"""AutoGen's agents work on a real model: the bundled one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from agent_framework import Agent
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core.models import UserMessage
from autogen_core.tools import FunctionTool
from pydantic import BaseModel

from aios_core import Kernel, KernelConfig
from autogen_aios import AIOSChatCompletionClient, AIOSWorkbench
from autogen_aios.agent_framework import AIOSChatClient


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    config = KernelConfig(cores=({"kind": "tiny"},), state={"directory": ":memory:"})  # type: ignore[arg-type]
    with Kernel(config) as kernel:
        yield kernel
        kernel.check()


@pytest.fixture
def client(kernel: Kernel) -> AIOSChatCompletionClient:
    return AIOSChatCompletionClient(kernel=kernel, max_tokens=64)


def calculate(expression: str) -> str:
    left, operator, right = expression.split()
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


CALCULATOR = FunctionTool(calculate, "do math", name="calculator")


def calculating(name: str, client: AIOSChatCompletionClient, **settings: Any) -> AssistantAgent:
    return AssistantAgent(
        name, client, tools=[CALCULATOR], reflect_on_tool_use=True, system_message=None, **settings
    )


def last(result: Any) -> str:
    return str(result.messages[-1].to_text())


async def test_an_agent_calls_a_tool_and_relays_its_result(
    client: AIOSChatCompletionClient,
) -> None:
    result = await calculating("ann", client).run(task="what is 123 times 45?")

    assert last(result) == "The result is 5535."
    assert client.total_usage().prompt_tokens > 0


async def test_many_agents_at_once_get_each_its_own_answer(
    client: AIOSChatCompletionClient,
) -> None:
    numbers = range(10, 18)

    results = await asyncio.gather(
        *(
            calculating(f"a{n}", client).run(
                task=f"what is {n} plus 2?", output_task_messages=False
            )
            for n in numbers
        )
    )

    assert [last(result) for result in results] == [f"The result is {n + 2}." for n in numbers]


async def test_a_tool_of_the_kernel_is_called_through_a_workbench(
    client: AIOSChatCompletionClient, kernel: Kernel
) -> None:
    bench = AIOSWorkbench([CALCULATOR], kernel=kernel)
    agent = AssistantAgent(
        "bench", client, workbench=bench, reflect_on_tool_use=True, system_message=None
    )

    assert last(await agent.run(task="what is 7 plus 8?")) == "The result is 15."


async def test_a_streamed_answer_is_the_whole_one(client: AIOSChatCompletionClient) -> None:
    agent = calculating("ann", client, model_client_stream=True)

    items = [item async for item in agent.run_stream(task="what is 7 plus 8?")]

    pieces = [item.content for item in items if isinstance(item, ModelClientStreamingChunkEvent)]
    assert len(pieces) > 1
    assert "".join(pieces) == last(items[-1]) == "The result is 15."


class Record(BaseModel):
    name: str
    count: int


async def test_an_answer_fits_its_schema(client: AIOSChatCompletionClient) -> None:
    text = "Answer as JSON with the keys name, count: Anna has 12 pieces."

    result = await client.create([UserMessage(content=text, source="user")], json_output=Record)

    assert Record.model_validate_json(str(result.content)) == Record(name="Anna", count=12)


@pytest.mark.parametrize("kind", [RoundRobinGroupChat, SelectorGroupChat])
async def test_a_team_takes_turns(client: AIOSChatCompletionClient, kind: Any) -> None:
    agents = [AssistantAgent(name, client, description=name) for name in ("ann", "bob", "eve")]
    settings = {"model_client": client} if kind is SelectorGroupChat else {}
    team = kind(agents, termination_condition=MaxMessageTermination(4), **settings)

    result = await team.run(task="hello")

    assert len(result.messages) == 4
    assert {message.source for message in result.messages[1:]} <= {"ann", "bob", "eve"}


async def test_tokens_are_counted_as_the_model_counts_them(
    client: AIOSChatCompletionClient, kernel: Kernel
) -> None:
    said = [UserMessage(content="what is 7 plus 8?", source="user")]
    agent = await kernel.aspawn("counted")

    counted = client.count_tokens(said)
    completion = await agent.llm.agenerate("what is 7 plus 8?", max_tokens=8)

    assert completion.usage.input_tokens == counted
    assert client.remaining_tokens(said) > 0


async def test_an_agent_of_agent_framework_calls_a_tool(kernel: Kernel) -> None:
    def calculator(expression: str) -> str:
        """Do math."""
        return calculate(expression)

    agent = Agent(AIOSChatClient(kernel=kernel), name="af", tools=[calculator])

    assert "15" in (await agent.run("what is 7 plus 8?", options={"max_tokens": 64})).text
