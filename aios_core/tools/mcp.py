"""Tools of MCP servers (Model Context Protocol), with the official `mcp` package, 1.x or 2.x.

All connections share one event loop, in a thread that starts with the first server; the `mcp`
package is imported then, not before. The tool "search" of server "github" is called
"github_search". A server's annotations of its tools count only if the server is configured as
trusted (as the protocol advises); otherwise each tool is taken to have irreversible effects.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Final, TypeVar

from aios_core.errors import InvalidRequest, KernelClosed, ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.mcp_session import Connection
from aios_core.tools.registry import Plugin
from aios_core.tools.requests import McpServer
from aios_core.tools.tool import Tool
from aios_core.tools.validation import ArgumentSchema

T = TypeVar("T")
#: Checks what a tool returned against its schema, on the tool's thread; raises `InvalidArguments`.
CheckResult = Callable[[str, Mapping[str, Any], Mapping[str, Any]], None]

_CLOSING_S: Final = 10.0
_NAME_LENGTH: Final = 64  # accepted by every model API
_DIGEST_LENGTH: Final = 8
_MAX_ERROR_CHARS: Final = 3_000  # of the text that a server returns for a failure


class McpConnections:
    """The connections to MCP servers. `_lock` guards the thread, the loop and the connections."""

    def __init__(self, max_bytes: int = 64 << 20, check_result: CheckResult | None = None) -> None:
        """Prepare without connecting. `max_bytes` bounds one message of a server."""
        self._check_result = check_result
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[Connection] = set()
        self._is_closed = False

    def load(self, server: McpServer) -> Plugin:
        """Connect to a server and list its tools. Blocks.

        Returns:
            The tools; `release` of the result closes the connection.

        Raises:
            BackendError: the package is missing, the server does not answer, or its answer
                cannot be used.
            InvalidRequest: it lists something that cannot be a tool.
            KernelClosed: the kernel was closed meanwhile.
        """
        connection = Connection(server, self._max_bytes)
        with self._lock:
            self._connections.add(connection)
        release = partial(self._release, connection)
        try:
            listed = self._run(connection.tools()).result()
            tools = tuple(
                _tool(server, one, connection, self._run, self._check_result) for one in listed
            )
        except CancelledError as exc:
            raise KernelClosed("the kernel is closing") from exc
        except BaseException:
            release()
            raise
        where = server.url or " ".join((server.command or "", *server.args))
        source = f"MCP server {server.name} ({where})"
        return Plugin(f"mcp:{server.name}", source, tools, release, not server.trusted)

    def close(self) -> None:
        """Close all connections and end the thread. Blocks. Idempotent."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
            connections = tuple(self._connections)
        if loop is None or thread is None or loop.is_closed():
            return
        closing = asyncio.run_coroutine_threadsafe(_close_all(connections), loop)
        try:
            closing.result(_CLOSING_S)
        except TimeoutError:
            closing.cancel()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSING_S)

    def _release(self, connection: Connection) -> None:
        """Close a connection once its calls have ended. Does not block."""
        try:
            closing = self._run(connection.close_when_idle())
        except KernelClosed:  # `close` closes all connections
            return
        closing.add_done_callback(lambda _: self._forget(connection))

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._is_closed:
                work.close()
                raise KernelClosed("the kernel is closing")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="aios-tool-mcp", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)


def _tool(
    server: McpServer,
    listed: Mapping[str, Any],
    connection: Connection,
    start: Callable[[Coroutine[Any, Any, Any]], Future[Any]],
    check: CheckResult | None,
) -> Tool:
    name = _name(server, listed["name"])

    def function(aios_context: ToolContext, **arguments: Any) -> Any:
        calling = start(connection.call(name, listed["name"], arguments))
        aios_context.cancellation.then(calling.cancel)
        try:
            result = calling.result()
            _require_fitting(name, result, listed.get("outputSchema"), check)
            return _value(name, result)
        except CancelledError as exc:
            raise ToolError(name, "was cancelled") from exc

    hints = listed.get("annotations", {}) if server.trusted else {}
    read_only = bool(hints.get("readOnlyHint", False))
    is_destructive = not read_only and bool(hints.get("destructiveHint", True))
    try:
        return Tool(
            name=name,
            description=listed.get("description", ""),
            parameters={"type": "object", **listed["inputSchema"]},
            function=function,
            context_name="aios_context",
            read_only=read_only,
            idempotent=bool(hints.get("idempotentHint", False)),
            irreversible=f"has unknown effects of MCP server {server.name!r}"
            if is_destructive
            else None,
            trusted=server.trusted,
        )
    except InvalidRequest as exc:
        raise InvalidRequest(f"MCP server {server.name!r} lists an invalid tool: {exc}") from exc


def _name(server: McpServer, name: str) -> str:
    """Return the kernel's name for a server's tool; a long one is cut and gets a hash."""
    full = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server.name}_{name}")
    if len(full) <= _NAME_LENGTH:
        return full
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{full[: _NAME_LENGTH - _DIGEST_LENGTH - 1]}_{digest}"


def _require_fitting(
    tool: str,
    result: Mapping[str, Any],
    schema: Mapping[str, Any] | None,
    check: CheckResult | None,
) -> None:
    """Raise `ToolError` unless a structured result fits the schema that the server lists."""
    if schema is None or check is None or result.get("isError"):
        return
    found = result.get("structuredContent")
    if not isinstance(found, dict):
        raise ToolError(
            tool, "the MCP server returned no structured content, which its schema requires"
        )
    try:
        if (compiled := ArgumentSchema(tool, schema)).is_quick(found):
            compiled.validate(found, repairs=False)
        else:
            check(tool, schema, found)
    except InvalidRequest as exc:
        reason = str(exc)[:_MAX_ERROR_CHARS]
        raise ToolError(tool, f"the MCP server's result does not fit its schema: {reason}") from exc


def _value(tool: str, result: Mapping[str, Any]) -> Any:
    """Return the value of a result: its structured content, or its texts, or its parts."""
    content = result.get("content", [])
    texts = [part["text"] for part in content if part.get("type") == "text"]
    if result.get("isError"):
        raise ToolError(tool, "\n".join(texts)[:_MAX_ERROR_CHARS] or "failed without a message")
    if "structuredContent" in result:
        return result["structuredContent"]
    return "\n".join(texts) if len(texts) == len(content) else content


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _close_all(connections: Iterable[Connection]) -> None:
    """Close all connections, also those that are still being opened; then end other tasks."""
    await asyncio.gather(*(one.close() for one in connections), return_exceptions=True)
    tasks = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.get_running_loop().shutdown_asyncgens()
