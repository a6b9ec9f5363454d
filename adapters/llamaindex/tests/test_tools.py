"""Tools both ways: the kernel's in LlamaIndex, and LlamaIndex's own as syscalls."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import AsyncBaseTool, BaseTool
from llama_index.llms.aios import AIOSLLM

from aios_core import EventKind, Kernel
from aios_core import tool as kernel_tool
from aios_core.testing.event_watcher import EventWatcher
from llama_index_aios.tools import kernel_tools, wrap_tools

from .conftest import Boot


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


async def whose_loop() -> str:
    """Return the identity of the event loop that runs this."""
    return str(id(asyncio.get_running_loop()))


def broken() -> str:
    """Breaks."""
    raise ZeroDivisionError("oops")


def requests(watch: EventWatcher) -> list[str]:
    submitted = (event for event in watch.events if event.kind is EventKind.SUBMITTED)
    return [event.facts["request"] for event in submitted if "request" in event.facts]


async def called(tool: BaseTool, **arguments: object) -> str:
    assert isinstance(tool, AsyncBaseTool)
    return (await tool.acall(**arguments)).content


@pytest.fixture
def kernel(boot: Boot) -> Kernel:
    """One in which tools may be loaded for everybody without asking a person."""
    return boot(access={"approver": "allow"})


@pytest.fixture
def multiply(kernel: Kernel) -> BaseTool:
    @kernel_tool(read_only=True, trusted=True)
    def multiply(a: int, b: int) -> int:
        """Multiplies."""
        return a * b

    kernel.spawn("loader").tools.load(multiply)
    (made,) = kernel_tools("multiply", kernel=kernel)
    return made


class TestKernelTools:
    async def test_a_kernel_tool_runs_in_both_halves(self, multiply: BaseTool) -> None:
        assert multiply(a=6, b=7).content == "42"
        assert await called(multiply, a=6, b=7) == "42"

    def test_a_model_is_told_the_tools_own_schema(self, multiply: BaseTool) -> None:
        function = multiply.metadata.to_openai_tool()["function"]

        assert function["name"] == "multiply"
        assert set(function["parameters"]["properties"]) == {"a", "b"}

    async def test_what_a_model_can_act_on_is_its_output(self, multiply: BaseTool) -> None:
        assert "InvalidArguments" in await called(multiply, a="six", b=7)

    async def test_an_agent_uses_it_as_one_agent(
        self, kernel: Kernel, multiply: BaseTool, watch: EventWatcher
    ) -> None:
        agent = FunctionAgent(llm=AIOSLLM(kernel=kernel), tools=[multiply], timeout=20)
        watch.events.clear()

        assert str(await agent.run("multiply 6 and 7")) == "The tool said: 42"
        assert len({e.pid for e in watch.events if e.kind is EventKind.SUBMITTED}) == 1


class TestWrappedTools:
    async def test_each_call_is_a_syscall_and_the_result_the_same(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        (wrapped,) = wrap_tools([add], kernel=kernel, agent="me")

        assert wrapped(a=1, b=2).raw_output == 3
        assert await called(wrapped, a=3, b=4) == "7"
        assert requests(watch).count("tool.run") == 2

    async def test_an_asynchronous_tool_runs_on_its_callers_loop(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([whose_loop], kernel=kernel)

        assert await called(wrapped) == str(id(asyncio.get_running_loop()))

    async def test_arguments_are_mended_before_it_runs(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([add], kernel=kernel)

        assert await called(wrapped, a="1", b=2) == "3"

    def test_what_it_raises_is_raised(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([broken], kernel=kernel)

        with pytest.raises(ZeroDivisionError, match="oops"):
            wrapped()

    async def test_an_agent_uses_it_as_it_is(self, kernel: Kernel, watch: EventWatcher) -> None:
        tools = wrap_tools([add], kernel=kernel)
        agent = FunctionAgent(llm=AIOSLLM(kernel=kernel), tools=tools, timeout=20)

        assert str(await agent.run("add 3 and 4")) == "The tool said: 7"
        assert "tool.run" in requests(watch)
