"""Mistakes that a type checker refuses, one a line. Checked, never run.

The comment at the end of a line is the code of mypy's error there.
"""

import aios_adapters
import aios_core
from aios_core import Agent, Kernel, KernelConfig, cores, tool


def wrong_llm_calls(agent: Agent) -> None:
    agent.llm.generate("hi", max_token=8)  # call-arg
    agent.llm.generate("hi", max_tokens="8")  # arg-type
    agent.llm.generate("hi", timeout=3)  # call-arg
    agent.llm.generate(3)  # arg-type
    agent.llm.stream("hi", temperature="cold")  # arg-type
    agent.llm.measure("hi", timeout_s=3)  # call-arg


async def wrong_awaited_calls(agent: Agent) -> None:
    await agent.llm.agenerate("hi", models="tiny")  # call-arg
    agent.llm.astream("hi", priority="high")  # arg-type
    await agent.llm.ameasure("hi", seed="lucky")  # arg-type
    _ = agent.llm.agenerate("hi").text  # attr-defined


def wrong_spawns(kernel: Kernel, agent: Agent) -> None:
    kernel.spawn("a", groups="b")  # call-arg
    kernel.spawn("a", budget=100)  # arg-type
    agent.spawn("a", parent=agent.pid)  # call-arg
    agent.spawn("a", weight="heavy")  # arg-type


async def wrong_awaited_spawns(kernel: Kernel, agent: Agent) -> None:
    await kernel.aspawn("a", prio=1)  # call-arg
    await agent.aspawn("a", priority="urgent")  # arg-type


def wrong_settings(kernel: Kernel) -> None:
    KernelConfig.load(schedulers={})  # call-arg
    KernelConfig.load(drain_s="long")  # arg-type
    KernelConfig(schedular={"policy": "fair"})  # call-arg
    KernelConfig(trace=3)  # arg-type
    kernel.explain_access("a/b", "memory.read", "memory:a/b:x", rights="read")  # call-arg
    tool(read_onely=True)  # call-overload
    tool(timeout_s="5")  # call-overload


def wrong_public_names() -> None:
    _ = aios_core.Kernal  # attr-defined
    _ = aios_core.cores.ScriptedCor  # attr-defined
    _ = cores.OpenAiCore  # attr-defined
    _ = aios_adapters.as_openai_err  # attr-defined
