"""Refer to an agent of the kernel: one that is given, one that is named, or the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace

from aios_adapters.agent_directory import AgentDirectory
from aios_adapters.async_scope import AsyncScope, hold_agent
from aios_adapters.callers import AgentSettings, Caller
from aios_adapters.kernels import adefault_kernel
from aios_core.kernel import Agent, Kernel
from aios_core.kernel.default import default_kernel

#: Finds the caller of the running call and its settings, from a name (None: none) and defaults.
FindCaller = Callable[[str | None, AgentSettings], tuple[Caller, AgentSettings]]


@dataclass(frozen=True, slots=True)
class AgentRef:
    """An agent that a component of a framework uses: given, named, or found at each call.

    Args:
        directory: the adapter's map from callers to agents.
        find: finds the caller of the running call.
        agent: an agent of the kernel, a name, or None to find the caller.
        settings: the settings of an agent that is spawned.
        kernel: None for the default kernel of the process.
        around: makes a block that is entered around each use.
    """

    directory: AgentDirectory
    find: FindCaller
    agent: str | Agent | None = None
    settings: AgentSettings = field(default_factory=AgentSettings)
    kernel: Kernel | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def name(self) -> str | None:
        """The name of the agent, such as for a configuration; None if it is found."""
        return self.agent.name if isinstance(self.agent, Agent) else self.agent

    def located(self) -> AgentRef:
        """Find the caller now, for a stream that may be read elsewhere."""
        if isinstance(self.agent, Agent):
            return self
        found = self.find(self.agent, self.settings)
        return replace(self, find=lambda *_: found)

    @contextmanager
    def use(self, kernel: Kernel | None = None) -> Iterator[Agent]:
        """Provide the agent for one call on a thread; it does not exit before the block ends."""
        if isinstance(self.agent, Agent):
            yield self.agent
            return
        found = self.find(self.agent, self.settings)
        kernel = kernel or self.kernel or default_kernel()
        with self.around(), self.directory.use(kernel, *found) as agent:
            yield agent

    def ause(self, kernel: Kernel | None = None) -> AbstractAsyncContextManager[Agent]:
        """Provide the agent for one call on an event loop (async form of `use`)."""

        async def enter(stack: AsyncExitStack) -> Agent:
            return await self.hold(stack.enter_context(ExitStack()), kernel)

        return AsyncScope(enter)

    async def hold(self, stack: ExitStack, kernel: Kernel | None = None) -> Agent:
        """Return the agent; it stays until the stack unwinds, which awaits nothing."""
        if isinstance(self.agent, Agent):
            return self.agent
        found = self.find(self.agent, self.settings)
        kernel = kernel or self.kernel or await adefault_kernel()
        stack.enter_context(self.around())
        return await hold_agent(stack, self.directory, kernel, *found)
