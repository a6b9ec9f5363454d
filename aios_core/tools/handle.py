"""The tool syscalls of one agent: what a developer writes as `agent.tools`."""

from __future__ import annotations

import asyncio
import builtins
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aios_core.errors import (
    InvalidRequest,
    KernelError,
    LimitReached,
    RetryLater,
    SandboxUnavailable,
    ToolError,
    WouldBlock,
)
from aios_core.manager import Port
from aios_core.messages import Message, ToolCall, ToolSpec, require_items
from aios_core.redaction import shown_repr
from aios_core.tools.requests import (
    Doubt,
    McpServer,
    StoredResult,
    ToolDoubts,
    ToolInfo,
    ToolList,
    ToolLoad,
    ToolRead,
    ToolResolve,
    ToolRun,
    ToolUnload,
    require_timeout,
)
from aios_core.tools.tool import Tool
from aios_core.untrusted.arguments import is_a, reads_arguments, require_text

Loadable = str | Path | Tool | Callable[..., Any] | McpServer
Arguments = Mapping[str, Any] | str

# What a model can act on; anything else is for the program that runs the agent.
_FOR_THE_MODEL = (InvalidRequest, RetryLater, LimitReached, ToolError, SandboxUnavailable)


@dataclass(frozen=True, slots=True)
class Tools:
    """See the module. Each blocking method has an async twin, its name with an "a" in front.

    All raise `AccessDenied`, `DeadlineExceeded`, `SyscallCancelled`, `KernelClosed`; the
    blocking ones `WouldBlock` on the kernel's own loop.
    """

    _port: Port

    # --- running -----------------------------------------------------------------------------

    def run(
        self,
        name: str,
        arguments: Arguments | None = None,
        *,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Run a tool and wait for its result: plain JSON, or a `StoredResult` if it is large.

        Args:
            name: "calculator", or one version of it: "calculator@1".
            arguments: by name, or the JSON text that a model wrote.
            idempotency_key: names what is meant, so that a repeat is known as one. None: the
                call is like no other.
            timeout_s: for all of it, the wait for its turn and for an approval included.

        Raises:
            NoSuchObject: no such tool, or version.
            InvalidArguments: they do not fit; says which field, what came, what is expected.
            ToolUnavailable, Overloaded: not now; says when.
            ToolError: it raised, died, hung or flooded.
            ToolInDoubt: nobody knows whether this call, or an equal one before, took effect.
            Conflict: the key was used for other arguments, or its call is under way.
        """
        require_timeout(timeout_s)
        request = ToolRun(name, _given(arguments), idempotency_key)
        return self._port.call(request, timeout_s=timeout_s)

    async def arun(
        self,
        name: str,
        arguments: Arguments | None = None,
        *,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """Run a tool. Cancelling the await cancels the call."""
        require_timeout(timeout_s)
        request = ToolRun(name, _given(arguments), idempotency_key)
        return await self._port.acall(request, timeout_s=timeout_s)

    def run_calls(
        self, tool_calls: Iterable[ToolCall], *, timeout_s: float | None = None
    ) -> builtins.list[Message]:
        """Run the calls of one completion in parallel; a tool message for each, in their order.

        What a model can act on (bad arguments, an unknown tool, a refusal, a failure) is
        said in its message; what it cannot is raised once all have ended.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.arun_calls(tool_calls, timeout_s=timeout_s))
        raise WouldBlock("an event loop runs in this thread; await arun_calls() instead")

    async def arun_calls(
        self, tool_calls: Iterable[ToolCall], *, timeout_s: float | None = None
    ) -> builtins.list[Message]:
        """The same, awaited. Cancelling the await cancels all of them."""
        require_timeout(timeout_s)
        calls = require_items("tool_calls", tool_calls)
        if wrong := [call for call in calls if not is_a(call, ToolCall)]:
            raise InvalidRequest(f"tool_calls: got {shown_repr(wrong[0])}; allowed: ToolCall")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answered(call, timeout_s)) for call in calls]
        answers = [task.result() for task in tasks]
        for answer in answers:
            if isinstance(answer, KernelError):
                raise answer
        return [answer for answer in answers if isinstance(answer, Message)]

    async def _answered(self, call: ToolCall, timeout_s: float | None) -> Message | KernelError:
        try:
            content = as_text(await self.arun(call.name, call.arguments, timeout_s=timeout_s))
        except _FOR_THE_MODEL as exc:
            content = f"{type(exc).__name__}: {exc}"
        except KernelError as exc:
            return exc
        return Message("tool", content, tool_call_id=call.id, name=call.name)

    def read(self, result: StoredResult | str, offset: int = 0, length: int = 16_384) -> str:
        """A part of a stored result, in characters. Raises `NoSuchObject` if it is gone."""
        return self._port.call(ToolRead(_reference(result), offset, length))

    async def aread(self, result: StoredResult | str, offset: int = 0, length: int = 16_384) -> str:
        """The same, awaited."""
        return await self._port.acall(ToolRead(_reference(result), offset, length))

    # --- which there are ---------------------------------------------------------------------

    def list(self) -> tuple[ToolInfo, ...]:
        """All tools that the agent may name, with who offers them."""
        return self._port.call(ToolList())

    async def alist(self) -> tuple[ToolInfo, ...]:
        """The same, awaited."""
        return await self._port.acall(ToolList())

    def specs(self, *names: str) -> tuple[ToolSpec, ...]:
        """The newest of each tool, as it is offered to a model; only those named, if any is.

        Raises `InvalidRequest` if one that is named is not there.
        """
        return _specs(self.list(), names)

    async def aspecs(self, *names: str) -> tuple[ToolSpec, ...]:
        """The same, awaited."""
        return _specs(await self.alist(), names)

    def load(self, source: Loadable) -> tuple[str, ...]:
        """Offer the tools of a file, a module, an MCP server or a function to everybody.

        Loading a source again reloads it; calls under way end with the old code. The ids of
        the tools. Raises `NoSuchObject`, `ToolError`, `InvalidRequest`, `Conflict`.
        """
        return self._port.call(ToolLoad(source))

    async def aload(self, source: Loadable) -> tuple[str, ...]:
        """The same, awaited."""
        return await self._port.acall(ToolLoad(source))

    def offer(self, source: Loadable) -> tuple[str, ...]:
        """Offer tools to this agent alone, until it exits. They go before everybody's."""
        return self._port.call(ToolLoad(source, is_private=True))

    async def aoffer(self, source: Loadable) -> tuple[str, ...]:
        """The same, awaited."""
        return await self._port.acall(ToolLoad(source, is_private=True))

    def unload(self, name: str, *, own: bool = False) -> tuple[str, ...]:
        """Offer a tool, a version ("calculator@1") or a source no more; the ids.

        `own`: one of those that `offer` offered. Raises `NoSuchObject`.
        """
        return self._port.call(ToolUnload(name, own))

    async def aunload(self, name: str, *, own: bool = False) -> tuple[str, ...]:
        """The same, awaited."""
        return await self._port.acall(ToolUnload(name, own))

    # --- in doubt ----------------------------------------------------------------------------

    def in_doubt(self) -> tuple[Doubt, ...]:
        """Calls of this agent, also before a crash, of which nobody knows whether they took effect.

        One that `is_repeatable` may be run again with its `idempotency_key`.
        """
        return self._port.call(ToolDoubts())

    async def ain_doubt(self) -> tuple[Doubt, ...]:
        """The same, awaited."""
        return await self._port.acall(ToolDoubts())

    def resolve(self, call_id: str, *, took_effect: bool) -> None:
        """Say what became of a call in doubt. Raises `NoSuchObject` if it is not in doubt."""
        self._port.call(ToolResolve(call_id, took_effect))

    async def aresolve(self, call_id: str, *, took_effect: bool) -> None:
        """The same, awaited."""
        await self._port.acall(ToolResolve(call_id, took_effect))


def as_text(result: Any) -> str:
    """A result as a model reads it."""
    if isinstance(result, str | StoredResult):
        return str(result)
    return json.dumps(result, ensure_ascii=False)


def _given(arguments: Arguments | None) -> Any:
    return {} if arguments is None else arguments


@reads_arguments
def _reference(result: StoredResult | str) -> str:
    return result.reference if isinstance(result, StoredResult) else result


def _specs(listed: Iterable[ToolInfo], names: tuple[str, ...]) -> tuple[ToolSpec, ...]:
    names = tuple(require_text("a tool's name", name) for name in names)
    newest = {info.name: info.spec for info in listed if info.is_newest}
    if unknown := [name for name in names if name not in newest]:
        raise InvalidRequest(f"no tools {unknown}; have {sorted(newest)}")
    return tuple(newest[name] for name in names or newest)
