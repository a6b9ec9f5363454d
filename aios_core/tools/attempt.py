"""One attempt at running a tool: on a worker's thread, or in a process that it drives.

Promise: whatever the tool does, the outcome is a plain JSON value or an exception of
the kernel's tree, with a bounded text and without the tool's frames. What it raises becomes
`ToolError`, also `SystemExit`; errors of the kernel that say what the caller can do
(`InvalidArguments`, `AccessDenied` ...) pass.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from aios_core.errors import Interrupted, KernelBug, KernelError, ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.process_pool import ToolProcesses
from aios_core.tools.strict_json import NotJSON, dump, plain
from aios_core.tools.tool import Tool
from aios_core.untrusted.third_party import (
    describe_on_worker,
    detach,
    is_kernel_error,
    release_frames,
)


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
    begun: Callable[[], object],
) -> Result | KernelError:
    """Run the tool here and now; its result, or its failure. Raises nothing.

    `begun` is called once the tool's own process, if it has one, is ready.
    """
    try:
        if tool.isolation == "process":
            value = processes.run(tool, arguments, context, max_bytes, begun)
        else:
            value = call(tool, arguments, context)
        return _result(tool, value, max_bytes)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is the caller's to know
        raised = exc
    try:
        return _failure(tool, raised)
    except BaseException:  # noqa: BLE001 - such as no memory, even for a text
        return ToolError(tool.name, "raised an exception that cannot be shown")
    finally:
        del raised  # or else this frame and what was raised keep each other alive


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
    except NotJSON as exc:
        raise ToolError(tool.name, f"did not return a JSON value: {exc}") from None
    except RecursionError:
        raise ToolError(tool.name, "did not return a JSON value: it is nested too deep") from None
    if len(encoded) > max_bytes:
        raise ToolError(
            tool.name,
            f"returned {len(encoded):,} bytes; tools.max_result_bytes allows {max_bytes:,}",
        )
    return Result(value, encoded)


def _failure(tool: Tool, raised: BaseException) -> KernelError:
    """What was raised, as an error of the kernel that may be handed on anywhere."""
    kind = type(raised)
    if is_kernel_error(raised) and not issubclass(kind, KernelBug):
        error = cast(KernelError, raised)
        release_frames(error)
        error.__cause__ = None if error.__cause__ is None else detach(error.__cause__)
        return error
    if issubclass(kind, MemoryError):
        return ToolError(tool.name, "ran out of memory")
    text = describe_on_worker(raised)
    ended = ToolError(tool.name, _in_words(raised, text))
    ended.__cause__ = detach(raised, text)
    return ended


def said(exc: BaseException) -> str:
    """Describe what a tool did instead of returning. Runs third-party code on a thread only."""
    return _in_words(exc, describe_on_worker(exc))


def _in_words(exc: BaseException, text: str) -> str:
    if issubclass(type(exc), SystemExit):
        return f"called exit({text.partition(': ')[2]})"
    return f"raised {text}"


def is_the_tools_fault(exc: BaseException) -> bool:
    """Return whether a failure says something about the tool, rather than about this call."""
    return isinstance(exc, ToolError) and not isinstance(exc.__cause__, Interrupted)
