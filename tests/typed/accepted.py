"""A program that a type checker accepts. Checked, never run, by ``tests/test_typed_doors.py``."""

from collections.abc import Sequence

import aios_core
from aios_core import Agent, Budget, Completion, Kernel, KernelConfig, Price, Rate, Tool, tool
from aios_core.access import Explanation
from aios_core.core import PromptSize
from aios_core.options import CallOptions


@tool(read_only=True, rate=Rate(2, 1.0), timeout_s=5.0, exclusive=("door",))
def knock(times: int) -> str:
    """Knock at the door."""
    return "knock " * times


def configured() -> KernelConfig:
    return KernelConfig.load(
        "aios.toml",
        scheduler={"policy": "fair"},
        prices={"m": Price(1.0, 2.0)},
        cores=[{"kind": "tiny"}],
        drain_s=1,
    )


def plain() -> KernelConfig:
    return KernelConfig(state={"directory": ":memory:"}, groups={"a": {"weight": 2}})


def family(kernel: Kernel) -> Sequence[Agent]:
    boss = kernel.spawn("boss", group="office", priority=1, weight=2.0, budget=Budget(tokens=100))
    return [boss, boss.spawn("clerk", priority=2), kernel.spawn("guest", parent=boss.pid)]


async def asked(kernel: Kernel) -> Completion:
    agent = await kernel.aspawn("a", group=None, weight=0.5)
    child = await agent.aspawn("b", budget=None)
    async with child.llm.astream([{"role": "user", "content": "hi"}], n=2, timeout_s=3) as deltas:
        async for delta in deltas:
            delta.text.upper()
    return await agent.llm.agenerate("hi", model="tiny", max_tokens=8, stop=["."], priority=0)


def shared_options(agent: Agent) -> PromptSize:
    options: CallOptions = {"temperature": 0.0, "tools": [{"name": "f"}], "timeout_s": 1.0}
    with agent.llm.stream("hi", **options) as deltas:
        next(deltas).text.upper()
    agent.llm.generate("hi", response_format={"type": "object"}, logit_bias={"1": 2.0}, extra={})
    return agent.llm.measure("hi", model=None, tool_choice="none", parallel_tool_calls=False)


def explained(kernel: Kernel) -> tuple[Explanation, Tool]:
    return kernel.explain_access(
        "a/b", "memory.read", "memory:a/b:x", labels=["web"], right="read"
    ), knock


def looked_up_on_the_package() -> tuple[type[aios_core.cores.ScriptedCore], type[Exception]]:
    return aios_core.cores.ScriptedCore, aios_core.errors.KernelError
