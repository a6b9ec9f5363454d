"""AutoGen's tools and code through the kernel: validated, limited, checked, attributed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from autogen_agentchat.agents import AssistantAgent, CodeExecutorAgent
from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor
from autogen_core.tools import FunctionTool, Workbench

from aios_core import EventKind, Kernel, ToolCall, ToolContext
from aios_core.errors import SandboxUnavailable, ToolError
from aios_core.testing import EventWatcher
from autogen_aios import (
    AIOSChatCompletionClient,
    AIOSCodeExecutor,
    AIOSWorkbench,
    wrap_tool,
)
from autogen_aios.code_executor import run_code

from .conftest import Boot


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


ADD = FunctionTool(add, "Add two numbers.")


async def test_an_offered_tool_is_listed_with_its_schema_and_runs(kernel: Kernel) -> None:
    bench = AIOSWorkbench([ADD], agent="ann", kernel=kernel)

    (schema,) = await bench.list_tools()
    result = await bench.call_tool("add", {"a": 3, "b": 4})

    assert (schema["name"], schema["description"]) == ("add", "Add two numbers.")
    assert schema["parameters"]["required"] == ["a", "b"]
    assert (result.to_text(), result.is_error) == ("7", False)


async def test_the_tools_of_the_kernel_are_there_by_name(kernel: Kernel) -> None:
    kernel.spawn("loader").tools.load(add)
    bench = AIOSWorkbench(names=["add"], agent="ann", kernel=kernel)

    assert [schema["name"] for schema in await bench.list_tools()] == ["add"]
    assert (await bench.call_tool("add", {"a": 1, "b": 2})).to_text() == "3"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [("add", {"a": "x", "b": 4}, "InvalidArguments"), ("mul", {}, "NoSuchObject")],
)
async def test_what_a_model_can_act_on_is_an_erroneous_result(
    kernel: Kernel, name: str, arguments: dict[str, Any], said: str
) -> None:
    bench = AIOSWorkbench([ADD], agent="ann", kernel=kernel)

    result = await bench.call_tool(name, arguments)

    assert result.is_error
    assert result.to_text().startswith(said)


async def test_a_tool_that_raises_is_an_erroneous_result(kernel: Kernel) -> None:
    def fail() -> str:
        """Fail."""
        raise OSError("no disk")

    result = await AIOSWorkbench([fail], agent="ann", kernel=kernel).call_tool("fail")

    assert result.is_error
    assert "no disk" in result.to_text()


async def test_an_agents_calls_are_its_own_also_in_parallel(
    boot: Boot, watch: EventWatcher
) -> None:
    calls = [ToolCall("c1", "add", '{"a": 1, "b": 2}'), ToolCall("c2", "add", '{"a": 3, "b": 4}')]
    kernel = boot([calls])
    client = AIOSChatCompletionClient(kernel=kernel)
    agent = AssistantAgent("writer", client, workbench=AIOSWorkbench([ADD], kernel=kernel))

    result = await agent.run(task="add")

    assert result.messages[-1].to_text() == "3\n7"  # type: ignore[union-attr]
    assert list(watch.names().values()) == ["writer"]
    (process,) = kernel.processes
    assert process.accounting.num_requests["tool.run"] == 2


async def test_a_token_cancels_a_call(kernel: Kernel, watch: EventWatcher) -> None:
    async def wait() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()
        return "never"

    bench, token = AIOSWorkbench([wait], agent="ann", kernel=kernel), CancellationToken()
    asked = asyncio.create_task(bench.call_tool("wait", {}, token))
    await asyncio.to_thread(_until_running, watch)

    token.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asked
    await watch.async_wait(EventKind.CANCELLED)


def _until_running(watch: EventWatcher) -> None:
    watch.wait(EventKind.DISPATCHED, 2)  # the offer, and the call


@pytest.mark.filterwarnings("ignore:(?s).*SECURITY WARNING")  # AutoGen's, of its function tools
async def test_a_workbench_survives_being_written_down(as_default: Kernel) -> None:
    bench = AIOSWorkbench([ADD], agent="ann")

    again = Workbench.load_component(bench.dump_component())

    assert isinstance(again, AIOSWorkbench)
    assert (await again.call_tool("add", {"a": 3, "b": 4})).to_text() == "7"
    assert [process.name for process in as_default.processes] == ["ann"]


def test_a_wrapped_tool_says_what_it_is_told_to() -> None:
    tool = wrap_tool(add, read_only=True)

    assert (tool.name, tool.description, tool.read_only) == ("add", "Add two numbers.", True)
    assert wrap_tool(tool) is tool


# --- code ----------------------------------------------------------------------------------------


class Runner:
    """Stands in for a sandbox."""

    async def run_for(self, identity: str, language: str, code: str, **_: Any) -> Any:
        class Result:
            stdout, stderr, notice = f"{identity}: {language}", "", None
            exit_code = 1 if "fail" in code else 0

        return Result


async def test_code_runs_as_the_agent_that_calls() -> None:
    context = ToolContext("t@1", "default/ann", "1", "k", _code_runner=cast("Any", Runner()))

    assert await run_code("python", "1", context) == {
        "exit_code": 0,
        "output": "default/ann: python",
    }


def executor(kernel: Kernel) -> AIOSCodeExecutor:
    return AIOSCodeExecutor(agent="ann", kernel=kernel)


def with_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ToolContext, "code_runner", property(lambda _: Runner()))


async def test_blocks_run_one_after_the_other_until_one_fails(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_sandbox(monkeypatch)
    blocks = [CodeBlock("1", "python"), CodeBlock("fail", "sh"), CodeBlock("2", "python")]

    result = await executor(kernel).execute_code_blocks(blocks, CancellationToken())

    assert result.exit_code == 1
    assert result.output == "default/ann: python\ndefault/ann: shell"


@pytest.mark.filterwarnings("ignore:No approval function set")  # the kernel approves
async def test_an_agent_that_runs_code_does_it_through_the_kernel(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, watch: EventWatcher
) -> None:
    with_sandbox(monkeypatch)
    agent = CodeExecutorAgent("coder", AIOSCodeExecutor(kernel=kernel))

    answer = await agent.run(task=[TextMessage(content="```python\nprint(1)\n```", source="u")])

    assert "default/coder: python" in answer.messages[-1].to_text()  # type: ignore[union-attr]
    assert list(watch.names().values()) == ["coder"]


async def test_without_a_sandbox_code_is_not_run(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(_: ToolContext) -> Any:
        raise SandboxUnavailable("nothing confines code here")

    monkeypatch.setattr(ToolContext, "code_runner", property(nowhere))

    with pytest.raises((SandboxUnavailable, ToolError), match="nothing confines code here"):
        await executor(kernel).execute_code_blocks([CodeBlock("1", "python")], CancellationToken())


async def test_a_language_that_is_not_run_is_refused_before_anything_runs(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match=r"'cobol'.*python"):
        await executor(kernel).execute_code_blocks([CodeBlock("", "cobol")], CancellationToken())


def test_an_executor_survives_being_written_down() -> None:
    ours = AIOSCodeExecutor(agent="ann", timeout=5)

    assert CodeExecutor.load_component(ours.dump_component()).dump_component() == (
        ours.dump_component()
    )
