"""Run the demo's agents, of any framework, on a kernel.

An adapter offers its agents in the entry point group `aios.demo_agents`: the framework's
name -> ``module:function``, a `MakeAsk`. LangChain's is in this module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Final

from aios_core import Agent, Kernel
from langchain_aios import ChatAIOS, akernel_tools
from langchain_aios.demo.facts import TOOLS
from langchain_aios.demo.kernel_tools import KernelDesk
from langchain_aios.demo.native_agents import ask_of
from langchain_aios.demo.tasks import Ask
from langchain_aios.demo.workload import AgentPlan, RunningAgent

MAX_TOKENS: Final = 64  # of an answer

#: (kernel, agent, names of its tools, tokens of an answer) -> questions to it, each a
#: conversation of its own
MakeAsk = Callable[[Kernel, Agent, Sequence[str], int], Awaitable[Ask]]


async def make_ask(kernel: Kernel, agent: Agent, tools: Sequence[str], max_tokens: int) -> Ask:
    """LangChain's: `create_agent` with the drop-in chat model and the kernel's tools."""
    llm = ChatAIOS(kernel=kernel, agent=agent, max_tokens=max_tokens)
    return ask_of(llm, await akernel_tools(*tools, agent=agent, kernel=kernel))


async def make_agent(member: AgentPlan, kernel: Kernel, make: MakeAsk = make_ask) -> RunningAgent:
    """An agent of the kernel that does the member's work."""
    agent = await kernel.aspawn(member.name, group=member.group)
    ask = await make(kernel, agent, tuple(TOOLS), MAX_TOKENS)
    return RunningAgent(ask, KernelDesk(agent))


def installed_frameworks() -> Mapping[str, MakeAsk]:
    """Those that can take part here, by name; what is not installed is left out."""
    found = {}
    for entry in sorted(entry_points(group="aios.demo_agents"), key=lambda one: one.name):
        try:
            found[entry.name] = entry.load()
        except ImportError:  # the adapter is here, its framework is not
            continue
    return found
