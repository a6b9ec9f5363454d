"""An agent held over the steps of an asynchronous generator, and let go without an await.

A generator that somebody leaves half-read is closed late: by the loop when it stops,
which closes whatever generators are left in any order, those inside of others too (and
`@asynccontextmanager` is one); or by nobody, when it outlives its loop. So a stream holds
nothing whose end has to be awaited.

    with ExitStack() as stack:
        agent = await ahold(stack, directory, kernel, caller, settings)
        deltas = stack.enter_context(closing(agent.llm.astream(...)))
        async for delta in deltas:
            yield ...
"""

from __future__ import annotations

from contextlib import ExitStack

from aios_core.adapting.callers import AgentSettings, Caller
from aios_core.adapting.directory import AgentDirectory
from aios_core.agent import Agent
from aios_core.kernel import Kernel


async def ahold(
    stack: ExitStack,
    directory: AgentDirectory,
    kernel: Kernel,
    caller: Caller,
    settings: AgentSettings,
) -> Agent:
    """The caller's agent, spawned if need be; it does not exit before the stack unwinds."""
    async with directory.ause(kernel, caller, settings):
        return stack.enter_context(directory.use(kernel, caller, settings))
