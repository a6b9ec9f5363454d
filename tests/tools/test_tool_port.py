"""A tool's access to the kernel ends with its call, and a load request names what it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, McpServer, SyscallCancelled, ToolContext, ToolError
from aios_core.errors import InvalidRequest
from aios_core.tools.requests import ToolList, ToolLoad

from .rig import PATIENCE, make, quiet_kernel


class Runner:
    """A sandbox that only records for which agent it ran."""

    def __init__(self) -> None:
        self.ran_for: list[str] = []

    async def run_for(self, identity: str, *_: Any, **__: Any) -> Any:
        self.ran_for.append(identity)

    run_in_session = run_for

    async def end_session(self, identity: str, _name: str) -> bool:
        self.ran_for.append(identity)
        return True


def _kept(kernel: Kernel) -> ToolContext:
    """Return the context of a call that has ended."""
    kept: list[ToolContext] = []

    def keep(context: ToolContext) -> str:
        kept.append(context)
        return context.port.call(ToolList())[0].name

    kernel.load_tools(make("keep", keep, context_name="context"))
    assert kernel.spawn("alice").tools.run("keep") == "keep"
    return kept[0]


def test_a_port_ends_with_its_call() -> None:
    with quiet_kernel() as kernel:
        context = _kept(kernel)
        with pytest.raises(SyscallCancelled, match="the call of keep@1 has ended, and its port"):
            context.port.call(ToolList())


async def test_a_port_ends_with_its_call_for_coroutines_too() -> None:
    kept: list[ToolContext] = []

    async def keep(context: ToolContext) -> int:
        kept.append(context)
        return len(await context.port.acall(ToolList()))

    async with quiet_kernel() as kernel:
        await kernel.aload_tools(make("keep", keep, context_name="context"))
        agent = await kernel.aspawn("alice")
        assert await agent.tools.arun("keep") == 1
        with pytest.raises(SyscallCancelled, match="has ended"):
            await kept[0].port.acall(ToolList())


def test_a_port_ends_when_its_caller_has_stopped_waiting() -> None:
    heard: list[BaseException] = []
    has_ended = threading.Event()

    def late(context: ToolContext) -> None:
        context.cancellation.wait(PATIENCE)
        try:
            context.port.call(ToolList())
        except SyscallCancelled as exc:
            heard.append(exc)
        has_ended.set()

    with quiet_kernel() as kernel:
        kernel.load_tools(make("late", late, context_name="context", timeout_s=0.05))
        with pytest.raises(ToolError, match="did not end within"):
            kernel.spawn("alice").tools.run("late")
        assert has_ended.wait(PATIENCE)
    assert [type(one) for one in heard] == [SyscallCancelled]


@pytest.mark.parametrize(
    "use",
    [
        lambda runner, who: runner.run_for(who, "python", "1"),
        lambda runner, who: runner.run_in_session(who, "a", "1"),
        lambda runner, who: runner.end_session(who, "a"),
    ],
    ids=["run_for", "run_in_session", "end_session"],
)
async def test_a_code_runner_is_for_its_caller_and_ends_with_its_call(
    use: Callable[[Any, str], Any],
) -> None:
    runner = Runner()
    context = ToolContext("code@1", "default/alice", "c", "k", _code_runner=runner)  # type: ignore[arg-type]

    await use(context.code_runner, "default/alice")
    with pytest.raises(InvalidRequest, match="runs code for 'default/bob'; allowed: its caller"):
        await use(context.code_runner, "default/bob")
    context.cancellation.end()
    with pytest.raises(SyscallCancelled, match="its code runner with it"):
        await use(context.code_runner, "default/alice")
    assert runner.ran_for == ["default/alice"]


@pytest.mark.parametrize("is_private", [True, False])
@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("tools/mine.py", {"path": str(Path("tools/mine.py").absolute())}),
        (Path("mine.py"), {"path": str(Path("mine.py").absolute())}),
        ("json", {}),
        (
            McpServer("m", "npx", ("-y", "it"), env={"TOKEN": "secret"}),
            {"command": "npx", "args": ["-y", "it"], "env": ["TOKEN"], "cwd": None},
        ),
        (
            McpServer("m", url="https://m.example", headers={"Authorization": "secret"}),
            {"url": "https://m.example", "headers": ["Authorization"], "trusted": False},
        ),
    ],
    ids=["path", "Path", "module", "command", "url"],
)
def test_loading_code_cannot_be_undone_and_says_what_it_runs(
    source: Any, shown: dict[str, Any], is_private: bool
) -> None:
    access = ToolLoad(source, is_private).access("default/alice")

    assert access.irreversible
    assert shown.items() <= dict(access.arguments).items()
    assert "secret" not in str(access)


def test_offering_a_function_of_the_program_to_oneself_can_be_undone() -> None:
    assert ToolLoad(len, is_private=True).access("default/alice").irreversible is None
    assert ToolLoad(len).access("default/alice").irreversible
