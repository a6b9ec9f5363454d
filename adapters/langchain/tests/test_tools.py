"""Tools both ways: the kernel's in LangChain, and LangChain's own as syscalls."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.types import Command

from aios_core import EventKind, InvalidArguments, Kernel
from aios_core import tool as kernel_tool
from aios_core.testing.event_watcher import EventWatcher
from langchain_aios import (
    AIOSMiddleware,
    ChatAIOS,
    kernel_tools,
    tool_node_wrappers,
    wrap_tools,
)

from .conftest import Boot


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@tool
async def whose_loop() -> str:
    """Return the identity of the event loop that runs this."""
    return str(id(asyncio.get_running_loop()))


@tool
def broken() -> str:
    """Breaks."""
    raise ZeroDivisionError("oops")


def requests(watch: EventWatcher) -> list[str]:
    """The kinds of the requests that were made of the managers."""
    submitted = (event for event in watch.events if event.kind is EventKind.SUBMITTED)
    return [event.facts["request"] for event in submitted if "request" in event.facts]


@pytest.fixture
def kernel(boot: Boot) -> Kernel:
    """One in which tools may be loaded for everybody without asking a person."""
    return boot(access={"approver": "allow"})


@pytest.fixture
def calculator(kernel: Kernel) -> BaseTool:
    @kernel_tool(read_only=True, trusted=True)
    def multiply(a: int, b: int) -> int:
        """Multiplies."""
        return a * b

    kernel.spawn("loader").tools.load(multiply)
    (made,) = kernel_tools("multiply", kernel=kernel)
    return made


class TestKernelTools:
    async def test_a_kernel_tool_runs_in_both_halves(self, calculator: BaseTool) -> None:
        assert calculator.invoke({"a": 6, "b": 7}) == "42"
        assert await calculator.ainvoke({"a": 6, "b": 7}) == "42"

    def test_a_call_of_a_model_becomes_its_message(self, calculator: BaseTool) -> None:
        call = {"type": "tool_call", "id": "c", "name": "multiply", "args": {"a": 6, "b": 7}}

        assert calculator.invoke(call) == ToolMessage("42", tool_call_id="c", name="multiply")

    def test_what_a_model_can_act_on_is_said_to_it(self, calculator: BaseTool) -> None:
        assert "InvalidArguments" in calculator.invoke({"a": "six", "b": 7})

    def test_an_agent_uses_it(self, kernel: Kernel, calculator: BaseTool) -> None:
        agent = create_agent(ChatAIOS(kernel=kernel), [calculator])

        state = agent.invoke({"messages": [("user", "multiply 6 and 7")]})

        assert state["messages"][-1].text == "The tool said: 42"


class TestWrappedTools:
    async def test_each_call_is_a_syscall_and_the_result_the_same(
        self, kernel: Kernel, watch: EventWatcher
    ) -> None:
        (wrapped,) = wrap_tools([add], kernel=kernel, agent="me")

        assert wrapped.invoke({"a": 1, "b": 2}) == 3
        assert await wrapped.ainvoke({"a": 3, "b": 4}) == 7
        assert requests(watch).count("tool.run") == 2

    async def test_an_asynchronous_tool_runs_on_its_callers_loop(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([whose_loop], kernel=kernel)

        assert await wrapped.ainvoke({}) == str(id(asyncio.get_running_loop()))

    def test_arguments_are_mended_before_it_runs(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([add], kernel=kernel)

        assert wrapped.invoke({"a": "1", "b": 2}) == 3

    async def test_a_models_call_that_is_refused_gets_an_answer_that_it_can_act_on(
        self, kernel: Kernel
    ) -> None:
        (wrapped,) = wrap_tools([add], kernel=kernel)
        call = {"type": "tool_call", "id": "1", "name": "add", "args": {"a": "many", "b": 2}}

        for answer in (wrapped.invoke(call), await wrapped.ainvoke(call)):
            assert (answer.status, answer.tool_call_id) == ("error", "1")
            assert "InvalidArguments: " in answer.content
            assert "many" in answer.content

    def test_arguments_that_a_program_gives_wrongly_are_its_error(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([add], kernel=kernel)

        with pytest.raises(InvalidArguments):
            wrapped.invoke({"a": "many", "b": 2})

    def test_what_it_raises_is_raised(self, kernel: Kernel) -> None:
        (wrapped,) = wrap_tools([broken], kernel=kernel)

        with pytest.raises(ZeroDivisionError, match="oops"):
            wrapped.invoke({})

    def test_its_declared_limits_hold(self, kernel: Kernel, watch: EventWatcher) -> None:
        declared = {"add": {"read_only": True, "exclusive": ("till",), "trusted": True}}
        (wrapped,) = wrap_tools([add], kernel=kernel, declared=declared, agent="me")

        assert wrapped.batch([{"a": n, "b": n} for n in range(4)]) == [0, 2, 4, 6]
        assert requests(watch).count("tool.run") == 4


def tool_graph(node: ToolNode) -> Any:
    """A graph of nothing but tools."""
    graph = StateGraph(MessagesState)
    graph.add_node("tools", node)
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    return graph.compile()


def calling(name: str, **arguments: Any) -> Any:
    """A state in which a model has called a tool."""
    call = {"name": name, "args": arguments, "id": "c", "type": "tool_call"}
    return {"messages": [AIMessage("", tool_calls=[call])]}  # type: ignore[list-item]


class TestMiddleware:
    @pytest.mark.parametrize("half", ["sync", "async"])
    async def test_every_call_of_an_agent_is_a_syscall_of_the_agent_that_calls_its_model(
        self, kernel: Kernel, watch: EventWatcher, half: str
    ) -> None:
        llm = ChatAIOS(kernel=kernel)
        agent: Any = create_agent(llm, [add], middleware=[AIOSMiddleware(kernel=kernel)])
        asked: Any = {"messages": [("user", "add 3 and 4")]}

        if half == "sync":
            state = await asyncio.to_thread(agent.invoke, asked)
        else:
            state = await agent.ainvoke(asked)

        assert state["messages"][-1].text == "The tool said: 7"
        assert "tool.run" in requests(watch)
        assert len({event.pid for event in watch.events if event.pid is not None}) == 1

    @pytest.mark.parametrize("half", ["sync", "async"])
    async def test_a_refusal_becomes_the_tools_message(self, kernel: Kernel, half: str) -> None:
        graph = tool_graph(ToolNode([add], **tool_node_wrappers(kernel=kernel)))
        asked = calling("add", a="three", b=4)

        if half == "sync":
            state = await asyncio.to_thread(graph.invoke, asked)
        else:
            state = await graph.ainvoke(asked)

        said = state["messages"][-1]
        assert said.status == "error"
        assert said.text.startswith("InvalidArguments: arguments of 'add' do not fit: a")

    def test_injected_state_and_commands_pass(self, kernel: Kernel) -> None:
        @tool
        def note(
            text: str,
            state: Annotated[dict[str, Any], InjectedState],
            tool_call_id: Annotated[str, InjectedToolCallId],
        ) -> Command[Any]:
            """Keeps a text."""
            said = f"{text} after {len(state['messages'])} messages"
            return Command(update={"messages": [ToolMessage(said, tool_call_id=tool_call_id)]})

        graph = tool_graph(ToolNode([note], **tool_node_wrappers(kernel=kernel)))

        state = graph.invoke(calling("note", text="hello"))

        assert state["messages"][-1].text == "hello after 1 messages"


class _ToolSuite:
    @property
    def tool_constructor(self) -> BaseTool:
        return self._tool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"a": 2, "b": 3}


class TestKernelToolUnit(_ToolSuite, ToolsUnitTests):
    @pytest.fixture(autouse=True)
    def made(self, calculator: BaseTool) -> None:
        self._tool = calculator


class TestKernelToolIntegration(_ToolSuite, ToolsIntegrationTests):
    @pytest.fixture(autouse=True)
    def made(self, calculator: BaseTool) -> None:
        self._tool = calculator


class TestWrappedToolUnit(_ToolSuite, ToolsUnitTests):
    @pytest.fixture(autouse=True)
    def made(self, kernel: Kernel) -> None:
        (self._tool,) = wrap_tools([add], kernel=kernel)


class TestWrappedToolIntegration(_ToolSuite, ToolsIntegrationTests):
    @pytest.fixture(autouse=True)
    def made(self, kernel: Kernel) -> None:
        (self._tool,) = wrap_tools([add], kernel=kernel)
