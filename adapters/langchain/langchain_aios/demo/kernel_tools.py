"""The demo's tools on the kernel: true syscalls of the agent that calls them.

An agent named "office" keeps the weather and the stock as files in its storage and lets
the agents' groups read them; notes go to the memory of the agent that takes them; the
calculator is the plug-in of that name. So each tool call is validated, checked and
journaled, and reads or writes what survives a crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from aios_core import Agent, Kernel, NoSuchObject, Tool, ToolContext, tool
from aios_core.memory import Memory
from aios_core.storage import Storage
from langchain_aios.demo.facts import STOCK, TOOLS, WEATHER, time_of_day

PLUGINS: Final = ("calculator",)  # of aios-plugins
_NOTES: Final = "notes"  # a block of an agent's memory, a line for each note


async def open_office(kernel: Kernel, groups: Iterable[str]) -> None:
    """Write the files and share them with these groups; offer the tools to every agent."""
    office = await kernel.aspawn("office", group="office")
    for folder, facts in (("weather", WEATHER), ("stock", STOCK)):
        for name, fact in facts.items():
            await office.storage.awrite(f"{folder}/{name}", fact)
        for group in groups:
            await office.storage.ashare(folder, f"group:{group}")
    for offered in make_tools(office.identity):
        await kernel.aload_tools(offered)


@dataclass(frozen=True, slots=True)
class KernelDesk:
    """See `NoteStore`: what one agent of the kernel has written down, as its memory has it."""

    agent: Agent

    async def notes(self) -> list[str]:
        try:
            return str(await self.agent.memory.aread(_NOTES)).splitlines()
        except NoSuchObject:
            return []


def make_tools(office: str) -> list[Tool]:
    """Return the tools except the calculator; they read the files of the identity `office`."""

    def look(context: ToolContext, path: str) -> str | None:
        try:
            return Storage(context.port).read_text(path, owner=office)
        except NoSuchObject:
            return None

    @tool(description=TOOLS["weather"], read_only=True, trusted=True)
    def weather(city: str, context: ToolContext) -> str:
        return look(context, f"weather/{city}") or f"error: no city {city}"

    @tool(description=TOOLS["lookup"], read_only=True, trusted=True)
    def lookup(key: str, context: ToolContext) -> str:
        return look(context, f"stock/{key}") or f"error: no key {key}"

    @tool(description=TOOLS["save_note"], trusted=True)
    def save_note(text: str, context: ToolContext) -> str:
        Memory(context.port).append(_NOTES, f"{text}\n")
        return "saved"

    @tool(description=TOOLS["clock"], read_only=True, trusted=True)
    def clock() -> str:
        return time_of_day()

    return [weather, lookup, save_note, clock]
