"""Hold an agent over the steps of an asynchronous generator, and release it without an await.

A generator that is left half-read is closed late: by the loop when it stops, which closes
all open generators in any order, nested ones too (and `@asynccontextmanager` is one); or
never, when it outlives its loop. So a stream may hold nothing that has to be awaited at its end.

    with ExitStack() as stack:
        agent = await hold_agent(stack, directory, kernel, caller, settings)
        deltas = stack.enter_context(closing(agent.llm.astream(...)))
        async for delta in deltas:
            yield ...

`AsyncScope` is a block that is entered with awaits and left without them, and is not a generator.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Generic, TypeVar

from aios_adapters.agent_directory import AgentDirectory
from aios_adapters.callers import AgentSettings, Caller
from aios_core.kernel import Agent, Kernel

T = TypeVar("T")


class AsyncScope(Generic[T]):
    """An `async with` block that is not a generator.

    Args:
        enter: pushes what the block holds onto a stack, and returns the block's value.
    """

    def __init__(self, enter: Callable[[AsyncExitStack], Awaitable[T]]) -> None:
        self._enter = enter
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> T:
        async with AsyncExitStack() as stack:
            value = await self._enter(stack)
            self._stack = stack.pop_all()
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, exc, tb)


async def hold_agent(
    stack: ExitStack,
    directory: AgentDirectory,
    kernel: Kernel,
    caller: Caller,
    settings: AgentSettings,
) -> Agent:
    """Return the caller's agent, spawned if necessary; it stays until the stack unwinds."""
    async with directory.ause(kernel, caller, settings):
        return stack.enter_context(directory.use(kernel, caller, settings))
