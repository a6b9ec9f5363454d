"""The handle `agent.tools`: run, list, load and unload tools, and resolve calls in doubt."""

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
    DoubtfulCall,
    McpServer,
    StoredResult,
    ToolInDoubtList,
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

# Errors that a model can act on; all others are raised to the program that runs the agent.
_FOR_THE_MODEL = (InvalidRequest, RetryLater, LimitReached, ToolError, SandboxUnavailable)


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools of one agent: `agent.tools`. Each method has an async form, named with an "a".

    All methods raise `AccessDenied`, `DeadlineExceeded`, `SyscallCancelled` and `KernelClosed`;
    the blocking ones raise `WouldBlock` on the kernel's own event loop.
    """

    _port: Port

    # --- run ---------------------------------------------------------------------------------

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
            name: of the tool: "calculator", or one version of it: "calculator@1".
            arguments: by name, or as the JSON text that a model wrote.
            idempotency_key: identifies the intent: a repeat with the same key is answered with
                the first outcome. None: every call is a new one.
            timeout_s: seconds for the whole call, including the wait for a slot and for an
                approval. None: no limit.

        Raises:
            NoSuchObject: there is no such tool, or version.
            InvalidArguments: they do not fit the schema; names each field, the value that was
                given, and what is expected.
            ToolUnavailable: the tool failed too often or hangs; `retry_after_s` has the wait.
            Overloaded: too many calls wait; `retry_after_s` has the wait.
            ToolError: the tool raised, died, hung, or returned too much.
            ToolInDoubt: it is unknown whether this call, or an equal one before, took effect.
            Conflict: the key was used for other arguments, or its call is still in flight.
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
        """Run a tool without blocking the event loop (async form of `run`).

        Cancelling the await cancels the call.
        """
        require_timeout(timeout_s)
        request = ToolRun(name, _given(arguments), idempotency_key)
        return await self._port.acall(request, timeout_s=timeout_s)

    def run_calls(
        self, tool_calls: Iterable[ToolCall], *, timeout_s: float | None = None
    ) -> builtins.list[Message]:
        """Run the tool calls of one completion in parallel.

        Args:
            tool_calls: `completion.tool_calls`.
            timeout_s: seconds for each call. None: no limit.

        Returns:
            A tool message for each call, in their order. An error that a model can act on (bad
            arguments, an unknown tool, a refusal, a failure) is the content of its message.

        Raises:
            KernelError: a call failed in another way; raised once all calls have ended.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.arun_calls(tool_calls, timeout_s=timeout_s))
        raise WouldBlock("an event loop runs in this thread; await arun_calls() instead")

    async def arun_calls(
        self, tool_calls: Iterable[ToolCall], *, timeout_s: float | None = None
    ) -> builtins.list[Message]:
        """Run tool calls without blocking the event loop (async form of `run_calls`).

        Cancelling the await cancels all of them.
        """
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
        """Read a part of a stored result.

        Args:
            result: the result, or its `reference`.
            offset: of the first character.
            length: the maximum number of characters.

        Raises:
            NoSuchObject: it is not stored, or was removed to make room for newer ones.
        """
        return self._port.call(ToolRead(_reference(result), offset, length))

    async def aread(self, result: StoredResult | str, offset: int = 0, length: int = 16_384) -> str:
        """Read a part of a stored result without blocking the event loop (async form of `read`)."""
        return await self._port.acall(ToolRead(_reference(result), offset, length))

    # --- list, load, unload ------------------------------------------------------------------

    def list(self) -> tuple[ToolInfo, ...]:
        """List all tools that the agent can run, with their sources."""
        return self._port.call(ToolList())

    async def alist(self) -> tuple[ToolInfo, ...]:
        """List the tools without blocking the event loop (async form of `list`)."""
        return await self._port.acall(ToolList())

    def specs(self, *names: str) -> tuple[ToolSpec, ...]:
        """Return tools in the form that is offered to a model, each in its newest version.

        Args:
            *names: of the tools; without names, all.

        Raises:
            InvalidRequest: there is no tool of such a name.
        """
        return _specs(self.list(), names)

    async def aspecs(self, *names: str) -> tuple[ToolSpec, ...]:
        """Return tools for a model without blocking the event loop (async form of `specs`)."""
        return _specs(await self.alist(), names)

    def load(self, source: Loadable) -> tuple[str, ...]:
        """Offer the tools of a file, a module, an MCP server or a function to all agents.

        Loading a source again reloads it; calls in flight end with the old code.

        Returns:
            The ids of the tools.

        Raises:
            NoSuchObject: there is no such file, module or plug-in.
            ToolError: loading it raises or takes too long.
            BackendError: the MCP server cannot be used.
            InvalidRequest: it offers no tools, or bad ones.
            Conflict: another source offers one of them.
            Overloaded: too many sources are being loaded.
        """
        return self._port.call(ToolLoad(source))

    async def aload(self, source: Loadable) -> tuple[str, ...]:
        """Load tools without blocking the event loop (async form of `load`)."""
        return await self._port.acall(ToolLoad(source))

    def offer(self, source: Loadable) -> tuple[str, ...]:
        """Offer tools to this agent alone, until it exits. Raises what `load` raises.

        A private tool hides a shared one of the same name.

        Returns:
            The ids of the tools.
        """
        return self._port.call(ToolLoad(source, is_private=True))

    async def aoffer(self, source: Loadable) -> tuple[str, ...]:
        """Offer private tools without blocking the event loop (async form of `offer`)."""
        return await self._port.acall(ToolLoad(source, is_private=True))

    def unload(self, name: str, *, own: bool = False) -> tuple[str, ...]:
        """Stop offering a tool, a version or a source. Calls in flight end as usual.

        Args:
            name: of a tool ("calculator"), a version ("calculator@1") or a source, as listed.
            own: remove a private tool (from `offer`) instead of one that all agents have.

        Returns:
            The ids of the removed tools.

        Raises:
            NoSuchObject: nothing of that name is offered.
        """
        return self._port.call(ToolUnload(name, own))

    async def aunload(self, name: str, *, own: bool = False) -> tuple[str, ...]:
        """Stop offering tools without blocking the event loop (async form of `unload`)."""
        return await self._port.acall(ToolUnload(name, own))

    # --- in doubt ----------------------------------------------------------------------------

    def in_doubt(self) -> tuple[DoubtfulCall, ...]:
        """List this agent's calls of which it is unknown whether they took effect.

        They were interrupted, by a timeout or a crash. One that `is_repeatable` may be run again
        with its `idempotency_key`; the others wait for `resolve`.
        """
        return self._port.call(ToolInDoubtList())

    async def ain_doubt(self) -> tuple[DoubtfulCall, ...]:
        """List the calls in doubt without blocking the event loop (async form of `in_doubt`)."""
        return await self._port.acall(ToolInDoubtList())

    def resolve(self, call_id: str, *, took_effect: bool) -> None:
        """Record whether a call in doubt took effect, after checking the outside world.

        Args:
            call_id: from `in_doubt`.
            took_effect: if False, the call may be made again.

        Raises:
            NoSuchObject: no such call is in doubt.
        """
        self._port.call(ToolResolve(call_id, took_effect))

    async def aresolve(self, call_id: str, *, took_effect: bool) -> None:
        """Resolve a call in doubt without blocking the event loop (async form of `resolve`)."""
        await self._port.acall(ToolResolve(call_id, took_effect))


def as_text(result: Any) -> str:
    """Return a tool's result as text for a model: texts as they are, all else as JSON."""
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
        raise InvalidRequest(f"there are no tools {unknown}; available: {sorted(newest)}")
    return tuple(newest[name] for name in names or newest)
