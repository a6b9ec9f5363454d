"""Run a framework's own tools through the kernel, with their own objects and exceptions.

The kernel handles the call: it validates and coerces the arguments, queues it, checks access,
journals and audits. Then the framework's own code runs in the context of the caller and, if it
is a coroutine, on the caller's event loop. The caller gets the object that it returned, or the
exception that it raised, unchanged.

    bridge = ToolBridge()
    value, stored = bridge.run(agent, tool, {"a": 1}, lambda arguments: theirs(**arguments))
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

#: Errors on which a model can act; all others are raised to the program that runs the agent.
MODEL_VISIBLE_ERRORS = (InvalidRequest, RetryLater, LimitReached, ToolError, SandboxUnavailable)

Work = Callable[[dict[str, Any]], Any]
AsyncWork = Callable[[dict[str, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """The description of a framework's tool for the kernel. Equal offers are one tool."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    declared: Mapping[str, Any] = field(default_factory=dict)  # further arguments of `Tool`


@dataclass(slots=True)
class _PendingCall:
    """The framework's code for one call, which runs when the kernel starts it, and its outcome."""

    work: Work
    outcome: Any = None
    error: BaseException | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    def __call__(self, arguments: dict[str, Any]) -> str:
        """Run the code on a worker thread. Returns its result as text, for the kernel's limits."""
        try:
            self.outcome = self.context.run(self.work, arguments)
        except BaseException as exc:
            self.error = exc
            raise
        content = getattr(self.outcome, "content", self.outcome)
        return content if isinstance(content, str) else str(content)


class ToolBridge:
    """Runs a framework's own tools as syscalls. Used from any thread and any event loop."""

    def __init__(self) -> None:
        self._in_flight: dict[str, _PendingCall] = {}
        self._known: WeakKeyDictionary[Agent, dict[str, ToolOffer]] = WeakKeyDictionary()

    def run(
        self, agent: Agent, tool: ToolOffer, arguments: Mapping[str, Any], work: Work
    ) -> tuple[Any, StoredResult | None]:
        """Run a tool on this thread.

        Args:
            agent: the agent that calls the tool.
            tool: the framework's tool.
            arguments: as the model gave them; the kernel validates and coerces them.
            work: the framework's own code, called with the coerced arguments.

        Returns:
            The result of `work`, and the kernel's reference to it if it was too large to return.

        Raises:
            KernelError: the kernel refused the call. An exception of `work` passes unchanged.
        """
        key, call = self._start(work)
        try:
            if self._known_to(agent).get(tool.name) != tool:
                agent.tools.offer(self._kernel_tool(tool))
                self._known_to(agent)[tool.name] = tool
            answer = agent.tools.run(tool.name, arguments, idempotency_key=key)
        except BaseException as exc:  # noqa: BLE001 - raised again, or the tool's own error is
            raise call.error or exc from exc.__cause__
        finally:
            del self._in_flight[key]
        return call.outcome, answer if isinstance(answer, StoredResult) else None

    async def arun(
        self, agent: Agent, tool: ToolOffer, arguments: Mapping[str, Any], work: AsyncWork
    ) -> tuple[Any, StoredResult | None]:
        """Run a tool with `work` as a coroutine on this event loop (async form of `run`).

        Cancelling the await cancels the syscall.
        """
        loop = asyncio.get_running_loop()

        def on_the_loop(coerced: dict[str, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(_awaited(work(coerced)), loop).result()

        key, call = self._start(on_the_loop)
        try:
            if self._known_to(agent).get(tool.name) != tool:
                await agent.tools.aoffer(self._kernel_tool(tool))
                self._known_to(agent)[tool.name] = tool
            answer = await agent.tools.arun(tool.name, arguments, idempotency_key=key)
        except asyncio.CancelledError:
            raise
        except BaseException as exc:  # noqa: BLE001 - raised again, or the tool's own error is
            raise call.error or exc from exc.__cause__
        finally:
            del self._in_flight[key]
        return call.outcome, answer if isinstance(answer, StoredResult) else None

    def _start(self, work: Work) -> tuple[str, _PendingCall]:
        key = f"bridged-{uuid4()}"
        call = self._in_flight[key] = _PendingCall(work)
        return key, call

    def _known_to(self, agent: Agent) -> dict[str, ToolOffer]:
        return self._known.setdefault(agent, {})

    def _kernel_tool(self, tool: ToolOffer) -> Tool:
        def run(context: ToolContext, **arguments: Any) -> str:
            return self._in_flight[context.idempotency_key](arguments)

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
