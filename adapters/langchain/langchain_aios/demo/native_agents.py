"""The demo's agents natively: `create_agent` with plain tools, as LangChain's pages show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, tool

from langchain_aios.demo.facts import STOCK, TOOLS, WEATHER, calculate, time_of_day
from langchain_aios.demo.tasks import Ask
from langchain_aios.demo.workload import AgentPlan, RunningAgent


@dataclass(slots=True)
class PlainDesk:
    """See `NoteStore`: a list in this process."""

    written: list[str] = field(default_factory=list)

    async def notes(self) -> list[str]:
        return self.written


async def make_agent(member: AgentPlan, llm: BaseChatModel) -> RunningAgent:
    """An agent of LangChain on this chat model."""
    desk = PlainDesk()
    config: RunnableConfig = {"metadata": {"aios_agent": member.name, "aios_group": member.group}}
    return RunningAgent(ask_of(llm, make_tools(desk), config), desk)


def ask_of(llm: BaseChatModel, tools: list[BaseTool], config: RunnableConfig | None = None) -> Ask:
    """Questions to a new agent of LangChain, each a conversation of its own."""
    agent: Any = create_agent(llm, tools)

    async def ask(question: str) -> str:
        state = await agent.ainvoke({"messages": [("user", question)]}, config)
        return str(state["messages"][-1].content)

    return ask


def make_tools(desk: PlainDesk) -> list[BaseTool]:
    """The five tools, on what this process has in memory."""

    @tool(description=TOOLS["calculator"])
    async def calculator(expression: str) -> str:
        return calculate(expression)

    @tool(description=TOOLS["weather"])
    async def weather(city: str) -> str:
        return WEATHER.get(city, f"error: no city {city}")

    @tool(description=TOOLS["lookup"])
    async def lookup(key: str) -> str:
        return STOCK.get(key, f"error: no key {key}")

    @tool(description=TOOLS["save_note"])
    async def save_note(text: str) -> str:
        desk.written.append(text)
        return "saved"

    @tool(description=TOOLS["clock"])
    async def clock() -> str:
        return time_of_day()

    return [calculator, weather, lookup, save_note, clock]
