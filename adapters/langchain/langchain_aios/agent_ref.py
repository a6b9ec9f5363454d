"""Whose calls a component of LangChain makes: a given or named agent's, or the run's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from aios_adapters import AgentSettings, adefault_kernel
from aios_core import Agent, Kernel, default_kernel
from langchain_aios.callers import directory, find_running_caller


@dataclass(frozen=True, slots=True)
class Seat:
    """Whose calls these are: an agent that is given, named, or found from the run."""

    agent: str | Agent | None = None
    group: str | None = None
    kernel: Kernel | None = None

    @contextmanager
    def taken(self) -> Iterator[Agent]:
        """The agent, on a thread."""
        if isinstance(self.agent, Agent):
            yield self.agent
            return
        caller, settings = find_running_caller(self.agent, AgentSettings(self.group))
        with directory.use(self.kernel or default_kernel(), caller, settings) as agent:
            yield agent

    @asynccontextmanager
    async def ataken(self) -> AsyncIterator[Agent]:
        """The agent, on an event loop."""
        if isinstance(self.agent, Agent):
            yield self.agent
            return
        caller, settings = find_running_caller(self.agent, AgentSettings(self.group))
        kernel = self.kernel or await adefault_kernel()
        async with directory.ause(kernel, caller, settings) as agent:
            yield agent
