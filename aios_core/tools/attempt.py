"""Run one attempt of a tool: on a worker thread, or in a process that the thread waits for.

Promise: the outcome is always a plain JSON value or a `KernelError`, with a bounded text and
without references to the tool's frames. Any exception of a tool, even `SystemExit`, becomes a
`ToolError`; errors of the kernel that a caller can act on (`InvalidArguments`, `AccessDenied`
...) pass unchanged.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from aios_core.errors import Interrupted, KernelBug, KernelError, ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.process_pool import ToolProcessPool
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
    """The result of a tool: plain JSON, and its encoded form."""

    value: Any
    encoded: bytes


def run_attempt(
    tool: Tool,
    arguments: Mapping[str, Any],
    context: ToolContext,
    *,
    processes: ToolProcessPool,
    max_bytes: int,
    on_started: Callable[[], object],
) -> Result | KernelError:
    """Run a tool on this thread and return its result or its failure. Never raises.

    Args:
        tool: the tool.
        arguments: they fit its schema.
        context: of the call.
        processes: for tools with `isolation="process"`.
        max_bytes: the largest result, as JSON.
        on_started: called once the tool's own process, if it has one, is ready.
    """
    try:
        if tool.isolation == "process":
            value = processes.run(tool, arguments, context, max_bytes, on_started)
        else:
            value = call(tool, arguments, context)
        return _result(tool, value, max_bytes)
    except BaseException as exc:  # noqa: BLE001 - third-party code may raise anything
        raised = exc
    try:
        return _failure(tool, raised)
    except BaseException:  # noqa: BLE001 - such as no memory, even for a text
        return ToolError(tool.name, "raised an exception that cannot be shown")
    finally:
        del raised  # or else this frame and what was raised keep each other alive


def call(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> Any:
    """Call a tool's function, in a new event loop if it is a coroutine function."""
    given = dict(arguments)
    if tool.context_name is not None:
        given[tool.context_name] = context
    answer = tool.function(**given)
    if inspect.isawaitable(answer):
        return asyncio.run(_awaited(answer, context))
    return answer


async def _awaited(answer: Any, context: ToolContext) -> Any:
    """Await a tool's coroutine, and cancel it when its caller stops waiting."""
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
    """Convert an exception of a tool to a `KernelError` without references to the tool's frames."""
    kind = type(raised)
    if is_kernel_error(raised) and not issubclass(kind, KernelBug):
        error = cast(KernelError, raised)
        release_frames(error)
        error.__cause__ = None if error.__cause__ is None else detach(error.__cause__)
        return error
    if issubclass(kind, MemoryError):
        return ToolError(tool.name, "ran out of memory")
    text = describe_on_worker(raised)
    ended = ToolError(tool.name, _failure_text(raised, text))
    ended.__cause__ = detach(raised, text)
    return ended


def describe_failure(exc: BaseException) -> str:
    """Describe how a tool failed: that it raised, or called exit.

    Runs third-party code (`__str__` of the exception) on another thread.
    """
    return _failure_text(exc, describe_on_worker(exc))


def _failure_text(exc: BaseException, text: str) -> str:
    if issubclass(type(exc), SystemExit):
        return f"called exit({text.partition(': ')[2]})"
    return f"raised {text}"


def counts_as_tool_failure(exc: BaseException) -> bool:
    """Return whether a failure counts against the tool, rather than only against this call."""
    return isinstance(exc, ToolError) and not isinstance(exc.__cause__, Interrupted)
