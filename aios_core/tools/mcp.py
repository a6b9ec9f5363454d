"""Tools of MCP servers (Model Context Protocol), with the official `mcp` package, 1.x or 2.x.

All connections live on one event loop of their own, in a thread that the first
server starts; the `mcp` package is imported then, not before. A tool of server
"github" called "search" is "github_search" here. What a server says about its tools
is believed only if it is configured as trusted (the protocol's own advice): else
each has effects, and cannot be undone.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar

from aios_core.errors import BackendError, KernelClosed, KernelError, ToolError
from aios_core.tools.context import ToolContext
from aios_core.tools.registry import Plugin
from aios_core.tools.requests import McpServer
from aios_core.tools.tool import Tool

T = TypeVar("T")

_CLOSING_S: Final = 10.0


class McpClients:
    """See the module. `_lock` guards the thread, the loop and the connections' table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._connections: dict[str, _Connection] = {}
        self._is_closed = False

    def load(self, server: McpServer) -> Plugin:
        """Connect, instead of an older connection of that name, and list the tools. Blocks.

        Raises:
            BackendError: the package is missing, the server does not answer, or its answer
                cannot be used.
        """
        connection = _Connection(server)
        try:
            tools = self._run(connection.open()).result(server.timeout_s)
        except TimeoutError as exc:
            self._run(connection.close())
            told = f"MCP server {server.name!r} did not answer within {server.timeout_s:g} s"
            raise BackendError(told) from exc
        with self._lock:
            older = self._connections.pop(server.name, None)
            self._connections[server.name] = connection
        if older is not None:
            self._run(older.close_when_idle())
        offered = tuple(_tool(server, listed, connection, self._run) for listed in tools)
        where = server.url or " ".join((server.command or "", *server.args))
        return Plugin(f"mcp:{server.name}", f"MCP server {server.name} ({where})", offered)

    def unload(self, name: str) -> None:
        """Close a server's connection once its calls have ended."""
        with self._lock:
            connection = self._connections.pop(name, None)
        if connection is not None:
            self._run(connection.close_when_idle())

    def close(self) -> None:
        """Close all connections and end the thread. Blocks. Idempotent."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        closing = asyncio.run_coroutine_threadsafe(_close_all(), loop)
        try:
            closing.result(_CLOSING_S)
        except TimeoutError:
            closing.cancel()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSING_S)

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


class _Connection:
    """One server. Lives on the loop; a task of its own enters and leaves the client's contexts."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._session: Any = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._num_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> list[dict[str, Any]]:
        """Connect; the tools as the protocol lists them."""
        ready: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"mcp {self.server.name}")
        return await ready

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run a tool; its result as the protocol has it. Reconnects if the connection was lost."""
        if self._task is None or self._task.done():
            await self.open()
        self._num_calls += 1
        self._idle.clear()
        session, task = self._session, self._task
        calling = asyncio.ensure_future(session.call_tool(name, dict(arguments)))
        try:
            await asyncio.wait({calling, task}, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise BackendError(f"MCP server {self.server.name!r} has gone")
            result = await calling
        finally:
            calling.cancel()
            self._num_calls -= 1
            if not self._num_calls:
                self._idle.set()
        dumped: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped

    async def close_when_idle(self) -> None:
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _live(self, ready: asyncio.Future[list[dict[str, Any]]]) -> None:
        try:
            async with _session(self.server) as session:
                self._session = session
                tools = await _listed(session)
                if not ready.done():
                    ready.set_result(tools)
                await self._closing.wait()
        except BaseException as exc:  # noqa: BLE001 - told to whoever opens it
            if not ready.done():
                ready.set_exception(_converted(self.server, exc))


@asynccontextmanager
async def _session(server: McpServer) -> AsyncIterator[Any]:
    """A session that is initialised."""
    try:
        from mcp import ClientSession, StdioServerParameters  # noqa: PLC0415 - an extra
        from mcp.client.stdio import stdio_client  # noqa: PLC0415
        from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415
    except ImportError as exc:
        raise BackendError(
            f"MCP server {server.name!r} needs the package mcp: pip install 'aios-core[mcp]'"
        ) from exc
    async with AsyncExitStack() as stack:
        if server.command is not None:
            parameters = StdioServerParameters(
                command=server.command,
                args=list(server.args),
                env=dict(server.env) or None,
                cwd=server.cwd,
            )
            streams = await stack.enter_async_context(stdio_client(parameters))
        else:
            client = _http_client(sys.modules[streamable_http_client.__module__], server)
            await stack.enter_async_context(client)
            streams = await stack.enter_async_context(
                streamable_http_client(server.url or "", http_client=client)
            )
        session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
        await session.initialize()
        yield session


def _http_client(transport: Any, server: McpServer) -> Any:
    """A client of the library that the installed `mcp` uses: httpx for 1.x, httpx2 for 2.x."""
    library = getattr(transport, "httpx2", None) or transport.httpx
    timeout = library.Timeout(server.timeout_s, read=300.0)
    return library.AsyncClient(headers=dict(server.headers), timeout=timeout)


async def _listed(session: Any) -> list[dict[str, Any]]:
    from mcp import types  # noqa: PLC0415 - an extra

    tools: list[dict[str, Any]] = []
    cursor = None
    while True:
        params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
        page = (await session.list_tools(params=params)).model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        tools += page["tools"]
        if not (cursor := page.get("nextCursor")):
            return tools


def _tool(
    server: McpServer,
    listed: Mapping[str, Any],
    connection: _Connection,
    start: Callable[[Coroutine[Any, Any, Any]], Future[Any]],
) -> Tool:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{server.name}_{listed['name']}")[:64]

    def function(aios_context: ToolContext, **arguments: Any) -> Any:
        calling = start(connection.call(listed["name"], arguments))
        aios_context.cancellation.then(calling.cancel)
        try:
            return _value(name, calling.result())
        except KernelError:
            raise
        except CancelledError as exc:
            raise ToolError(name, "was cancelled") from exc
        except Exception as exc:
            raise ToolError(name, f"the MCP server said: {exc}") from exc

    hints = listed.get("annotations", {}) if server.trusted else {}
    read_only = bool(hints.get("readOnlyHint", False))
    is_destructive = not read_only and bool(hints.get("destructiveHint", True))
    return Tool(
        name=name,
        description=listed.get("description", ""),
        parameters={"type": "object", **listed["inputSchema"]},
        function=function,
        context_name="aios_context",
        read_only=read_only,
        idempotent=bool(hints.get("idempotentHint", False)),
        irreversible=f"does what MCP server {server.name!r} likes" if is_destructive else None,
        trusted=server.trusted,
    )


def _value(tool: str, result: Mapping[str, Any]) -> Any:
    """The structured content, or the texts, or the list of what it is."""
    content = result.get("content", [])
    texts = [part["text"] for part in content if part.get("type") == "text"]
    if result.get("isError"):
        raise ToolError(tool, "\n".join(texts) or "failed, and did not say why")
    if "structuredContent" in result:
        return result["structuredContent"]
    return "\n".join(texts) if len(texts) == len(content) else content


def _converted(server: McpServer, exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):  # anyio wraps what happens in its task groups
        exc = exc.exceptions[0]
    if isinstance(exc, KernelError | asyncio.CancelledError):
        return exc
    error = BackendError(f"MCP server {server.name!r} cannot be used: {exc!r}")
    error.__cause__ = exc
    return error


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _close_all() -> None:
    """End the tasks of all connections, also of those that are still being opened."""
    tasks = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.get_running_loop().shutdown_asyncgens()
