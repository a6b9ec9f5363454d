"""The adapter of LangChain on a real model, the bundled `tiny`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import BaseTool, tool
from pydantic import BaseModel

from aios_core import Kernel, KernelConfig
from langchain_aios import ChatAIOS


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(KernelConfig(cores=({"kind": "tiny"},))) as kernel:  # type: ignore[arg-type]
        yield kernel
        kernel.check()


@pytest.fixture
def llm(kernel: Kernel) -> ChatAIOS:
    return ChatAIOS(kernel=kernel, max_tokens=64)


@pytest.fixture
def tools() -> list[BaseTool]:
    @tool(description="do math")
    def calculator(expression: str) -> str:
        try:
            left, operator, right = expression.split()
            a, b = int(left), int(right)
            return str({"+": a + b, "-": a - b, "*": a * b}[operator])
        except (ValueError, KeyError):  # the model miscopied; the test sees it in the answer
            return f"error: not a sum: {expression}"

    @tool(description="weather for a place")
    def weather(city: str) -> str:
        return {"Oslo": "4 degrees, snow"}[city]

    return [calculator, weather]


def test_an_agent_calls_a_tool_and_relays_its_result(llm: ChatAIOS, tools: list[BaseTool]) -> None:
    agent = create_agent(llm, tools)

    state = agent.invoke({"messages": [("user", "what is 123 times 45?")]})

    _, asked, result, answer = state["messages"]
    assert asked.tool_calls[0]["args"] == {"expression": "123 * 45"}
    assert result.content == "5535"
    assert answer.text == "The result is 5535."
    assert answer.usage_metadata["input_tokens"] > asked.usage_metadata["input_tokens"] > 0


async def test_many_agents_at_once_get_each_its_own_answer(
    llm: ChatAIOS, tools: list[BaseTool]
) -> None:
    agent = create_agent(llm, tools)

    async def ask(n: int) -> str:
        state = await agent.ainvoke({"messages": [("user", f"what is {n} plus {3 * n}?")]})
        return str(state["messages"][-1].content)

    numbers = range(20, 28)
    alone = [await ask(n) for n in numbers]
    answers = await asyncio.gather(*(ask(n) for n in numbers))

    assert answers == alone
    right = [f"The result is {4 * n}." for n in numbers]
    assert sum(said == truth for said, truth in zip(answers, right, strict=True)) >= 6


async def test_a_streamed_tool_call_is_whole_in_the_end(
    llm: ChatAIOS, tools: list[BaseTool]
) -> None:
    offered = llm.bind_tools(tools)
    chunks = [chunk async for chunk in offered.astream("what is the weather in Oslo?")]

    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert [(c["name"], c["args"]) for c in whole.tool_calls] == [("weather", {"city": "Oslo"})]
    assert whole.response_metadata["model_name"] == "tiny"
    assert [bool(chunk.usage_metadata) for chunk in chunks].count(True) == 1


def test_tool_choice_forces_a_call(llm: ChatAIOS, tools: list[BaseTool]) -> None:
    answer = llm.bind_tools(tools, tool_choice="weather").invoke("what is 2 plus 3?")

    assert isinstance(answer, AIMessage)
    assert [call["name"] for call in answer.tool_calls] == ["weather"]


class Weather(BaseModel):
    """Weather for a place."""

    sky: Literal["sunny", "rain", "snow"]
    is_warm: bool


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output_holds_to_its_schema_whatever_the_model_knows(
    llm: ChatAIOS, method: Any
) -> None:
    answer = llm.with_structured_output(Weather, method=method).invoke("the weather in Oslo")

    assert isinstance(answer, Weather)
