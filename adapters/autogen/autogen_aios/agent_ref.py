"""Whose memory, tools and files a component of AutoGen uses: a named agent's, or the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from aios_adapters import AgentSettings, Caller, CallerKind, adefault_kernel
from aios_core import Agent, Kernel
from autogen_aios.callers import directory, find_caller

# AutoGen runs an agent's tools in tasks of their own, in which the agent cannot be seen any
# more; they inherit who was last seen in the agent's own task.
_last_seen: Final[ContextVar[Caller | None]] = ContextVar("aios_last_seen", default=None)


@dataclass(frozen=True, slots=True)
class Seat:
    """An agent of the kernel, however it was given. `agent` None: the one that calls."""

    agent: str | Agent | None = None
    group: str | None = None
    kernel: Kernel | None = None

    @property
    def name(self) -> str | None:
        """The agent's name, for a configuration."""
        return self.agent.name if isinstance(self.agent, Agent) else self.agent

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Agent]:
        """The agent, for one call."""
        if isinstance(self.agent, Agent):
            yield self.agent
            return
        caller = Caller.named(self.agent, self.group) if self.agent else _seen()
        kernel = self.kernel or await adefault_kernel()
        async with directory.ause(kernel, caller, AgentSettings(self.group)) as agent:
            yield agent


def _seen() -> Caller:
    """Who calls, or else who was seen last."""
    caller = find_caller()
    if caller.kind is CallerKind.OBJECT:
        _last_seen.set(caller)
        return caller
    return _last_seen.get() or caller
