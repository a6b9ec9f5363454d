"""One attempt at running a tool: on a worker's thread, or in a process that it drives.

Promise: whatever the tool does, the outcome is a plain JSON value or an exception of
the kernel's tree. What it raises becomes `ToolError`, also `SystemExit`; errors of the
kernel that say what the caller can do (`InvalidArguments`, `AccessDenied` ...) pass.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aios_core.errors import Interrupted, KernelBug, KernelError, ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.processes import ToolProcesses
from aios_core.tools.strict_json import NotJSON, dump, plain
from aios_core.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool returned: plain JSON, and the same as bytes."""

    value: Any
    encoded: bytes


def run(
    tool: Tool,
    arguments: Mapping[str, Any],
    context: ToolContext,
    *,
    processes: ToolProcesses,
    max_bytes: int,
) -> Result:
    """Run the tool here and now. Raises `KernelError`s only."""
    try:
        if tool.isolation == "process":
            value = processes.run(tool, arguments, context, max_bytes)
        else:
            value = call(tool, arguments, context)
        return _result(tool, value, max_bytes)
    except KernelBug as exc:
        raise ToolError(tool.name, f"raised {exc!r}") from exc
    except KernelError:
        raise
    except MemoryError as exc:
        raise ToolError(tool.name, "ran out of memory") from exc
    except BaseException as exc:
        raise ToolError(tool.name, _said(exc)) from exc


def call(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> Any:
    """Call the tool's function, with a loop of its own if it is a coroutine function."""
    given = dict(arguments)
    if tool.context_name is not None:
        given[tool.context_name] = context
    answer = tool.function(**given)
    if inspect.isawaitable(answer):
        return asyncio.run(_awaited(answer, context))
    return answer


async def _awaited(answer: Any, context: ToolContext) -> Any:
    """Await what the tool returned; its caller's leaving cancels it."""
    task = asyncio.ensure_future(answer)
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:  # it ended meanwhile
            return

    context.cancellation.then(cancel)
    try:
        return await task
    except asyncio.CancelledError as exc:
        raise ToolError(context.tool, "was cancelled") from exc


def _result(tool: Tool, value: Any, max_bytes: int) -> Result:
    try:
        value = plain(value)
        encoded = value.encode() if isinstance(value, str) else dump(value)
    except (NotJSON, RecursionError) as exc:
        raise ToolError(tool.name, f"returned no JSON value: {exc}") from exc
    if len(encoded) > max_bytes:
        raise ToolError(
            tool.name,
            f"returned {len(encoded):,} bytes; tools.max_result_bytes allows {max_bytes:,}",
        )
    return Result(value, encoded)


def _said(exc: BaseException) -> str:
    if isinstance(exc, SystemExit):
        return f"called exit({exc.code!r})"
    return f"raised {type(exc).__name__}: {exc}" if str(exc) else f"raised {type(exc).__name__}"


def is_the_tools_fault(exc: BaseException) -> bool:
    """Whether a failure says something about the tool, rather than about this call."""
    return isinstance(exc, ToolError) and not isinstance(exc.__cause__, Interrupted)


Runner = Callable[[], Result]
