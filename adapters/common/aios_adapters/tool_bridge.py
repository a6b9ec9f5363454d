"""A framework's own tools through the kernel, without ceasing to be what they are.

The kernel sees the call: it validates and mends the arguments, waits for the tool's
turn, checks, journals and audits. Then what the framework would have done is done
(an `Escort`), in the context of the caller and, if it is a coroutine, on the
caller's event loop, and the caller gets the very object that came of it, or the very
exception.

    escorts = ToolBridge()
    value = escorts.run(agent, tool, {"a": 1}, lambda arguments: theirs(**arguments))
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from aios_core.errors import (
    InvalidRequest,
    LimitReached,
    RetryLater,
    SandboxUnavailable,
    ToolError,
)
from aios_core.kernel import Agent
from aios_core.tools import StoredResult, Tool, ToolContext

#: What a model can act on; anything else is for the program that runs the agent.
MODEL_VISIBLE_ERRORS = (InvalidRequest, RetryLater, LimitReached, ToolError, SandboxUnavailable)

Work = Callable[[dict[str, Any]], Any]
AsyncWork = Callable[[dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A framework's tool, as the kernel is told of it. Equal offers are one tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    declared: Mapping[str, Any] = field(default_factory=dict)  # what `Tool` may say besides


@dataclass(slots=True)
class _PendingCall:
    """What runs when the kernel lets a call run, and what came of it."""

    work: Work
    outcome: Any = None
    error: BaseException | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def __call__(self, arguments: dict[str, Any]) -> str:
        """On a worker's thread; the text is for the kernel's books and limits."""
        try:
            self.outcome = self.context.run(self.work, arguments)
        except BaseException as exc:
            self.error = exc
            raise
        content = getattr(self.outcome, "content", self.outcome)
        return content if isinstance(content, str) else str(content)


class ToolBridge:
    """See the module. Any thread and any event loop may use it."""

    def __init__(self) -> None:
        self._under_way: dict[str, _PendingCall] = {}
        self._known: WeakKeyDictionary[Agent, dict[str, ToolOffer]] = WeakKeyDictionary()

    def run(
        self, agent: Agent, tool: ToolOffer, arguments: Mapping[str, Any], work: Work
    ) -> tuple[Any, StoredResult | None]:
        """Make a call on this thread: what came of it, and where it is if it was too large.

        Raises what the kernel refuses with, or what `work` raised.
        """
        key, escort = self._begun(work)
        try:
            if self._known_to(agent).get(tool.name) != tool:
                agent.tools.offer(self._kernel_tool(tool))
                self._known_to(agent)[tool.name] = tool
            answer = agent.tools.run(tool.name, arguments, idempotency_key=key)
        except BaseException as exc:  # noqa: BLE001 - raised again, or what lies behind it is
            raise escort.error or exc from exc.__cause__
        finally:
            del self._under_way[key]
        return escort.outcome, answer if isinstance(answer, StoredResult) else None

    async def arun(
        self, agent: Agent, tool: ToolOffer, arguments: Mapping[str, Any], work: AsyncWork
    ) -> tuple[Any, StoredResult | None]:
        """The same on an event loop, where `work` runs too. Cancelling the await cancels it."""
        loop = asyncio.get_running_loop()

        def on_the_loop(mended: dict[str, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(_awaited(work(mended)), loop).result()

        key, escort = self._begun(on_the_loop)
        try:
            if self._known_to(agent).get(tool.name) != tool:
                await agent.tools.aoffer(self._kernel_tool(tool))
                self._known_to(agent)[tool.name] = tool
            answer = await agent.tools.arun(tool.name, arguments, idempotency_key=key)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - raised again, or what lies behind it is
            raise escort.error or exc from exc.__cause__
        finally:
            del self._under_way[key]
        return escort.outcome, answer if isinstance(answer, StoredResult) else None

    def _begun(self, work: Work) -> tuple[str, _PendingCall]:
        key = f"escort-{uuid4()}"
        escort = self._under_way[key] = _PendingCall(work)
        return key, escort

    def _known_to(self, agent: Agent) -> dict[str, ToolOffer]:
        return self._known.setdefault(agent, {})

    def _kernel_tool(self, tool: ToolOffer) -> Tool:
        def run(context: ToolContext, **arguments: Any) -> str:
            return self._under_way[context.idempotency_key](arguments)

        parameters = {"type": "object", "properties": {}, **tool.parameters}
        return Tool(
            tool.name,
            tool.description,
            parameters,
            run,
            context_name="context",
            **tool.declared,
        )


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work
