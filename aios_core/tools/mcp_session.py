"""A connection to one MCP server: opens a session, and another when that is lost.

Runs on the loop of `aios_core.tools.mcp`. A session's contexts are entered and left
by a task of its own, because the package requires one task for both.

Promises: callers that find the session lost share one new session; a session that no caller
waits for any longer is closed; a call that loses its connection is not reported as failed,
because it may have taken effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aios_core.distribution import install_command
from aios_core.errors import BackendError, KernelError, ToolError, ToolUnavailable
from aios_core.tools.mcp_transports import StderrTail, connect_http, connect_stdio
from aios_core.tools.requests import McpServer
from aios_core.tools.tool_process import ToolDied

_POLITE_S: Final = 3.0  # for a server to end its session before it is ended
_MAX_TOOLS: Final = 1_000  # of one server
_MAX_LIST_BYTES: Final = 16 << 20
_CONNECTION_CLOSED: Final = -32_000  # of the package; servers use it for errors of their own too


class Connection:
    """The connection to one MCP server for as long as its tools are offered."""

    def __init__(self, server: McpServer, max_bytes: int) -> None:
        self._server = server
        self._max_bytes = max_bytes
        self._session: _Session | None = None
        self._opening: asyncio.Task[_Session] | None = None
        self._is_closed = False
        self._num_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def tools(self) -> list[dict[str, Any]]:
        """Connect and return the tools, as the protocol lists them. Raises `BackendError`."""
        return (await self._opened()).tools

    async def call(self, tool: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run a tool.

        Args:
            tool: the kernel's name of the tool, for errors.
            name: the server's name of the tool.
            arguments: of the call.

        Returns:
            The result, as in the protocol.

        Raises:
            ToolDied: the connection broke during the call.
            ToolError: the server answered with an error of the protocol.
            ToolUnavailable: the server was loaded again, or unloaded.
            BackendError: the connection was lost before the call, and cannot be opened again.
        """
        if self._is_closed:
            raise ToolUnavailable(tool, "was loaded again or unloaded; call it again", 0.0)
        self._num_calls += 1
        self._idle.clear()
        try:
            session = await self._opened()
            return await session.call(tool, name, arguments)
        finally:
            self._num_calls -= 1
            if not self._num_calls:
                self._idle.set()

    async def close_when_idle(self) -> None:
        """Refuse new calls, and close once the calls in flight have ended."""
        self._is_closed = True
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Close the connection at once. Idempotent."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._session is not None:
            await self._session.close()

    # --- inside ------------------------------------------------------------------------------

    async def _opened(self) -> _Session:
        if self._session is not None and self._session.is_usable:
            return self._session
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(), name=f"mcp {self._server.name}")
            self._opening.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Session:
        """Open a new session within the server's `timeout_s`."""
        if self._session is not None:
            await self._session.close()
        session = self._session = _Session(self._server, self._max_bytes)
        try:
            async with asyncio.timeout(self._server.timeout_s):
                await session.open()
        except TimeoutError as exc:
            reason = f"did not answer within {self._server.timeout_s:g} s"
            raise BackendError(f"MCP server {self._server.name!r} {reason}") from exc
        return session


class _Session:
    """One session with a server; it is opened once, and never again after it was lost."""

    def __init__(self, server: McpServer, max_bytes: int) -> None:
        self.tools: list[dict[str, Any]] = []
        self._server = server
        self._max_bytes = max_bytes
        self._stderr = StderrTail(server.name)
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None
        self._is_open = False
        self._has_broken = False
        self._closing = asyncio.Event()

    @property
    def is_usable(self) -> bool:
        """Whether calls may go through it."""
        is_alive = self._task is not None and not self._task.done()
        return is_alive and self._is_open and not self._has_broken

    async def open(self) -> None:
        """Connect and list the tools. Cancelling the await ends the session.

        Raises:
            BackendError: the server cannot be used.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(ready), name=f"mcp {self._server.name}: life")
        try:
            await ready
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def call(self, tool: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run a tool, as `Connection.call` does."""
        if self._task is None:
            raise RuntimeError("a session is opened before it is used")
        calling = asyncio.ensure_future(self._client.call_tool(name, dict(arguments)))
        try:
            await asyncio.wait({calling, self._task}, return_when=asyncio.FIRST_COMPLETED)
            result = calling.result() if calling.done() else None
        except Exception as exc:
            if self._is_the_connections(exc):
                self._has_broken = True
                raise self._died(tool) from exc
            raise ToolError(tool, f"the MCP server returned an error: {exc}") from exc
        finally:
            calling.cancel()
        if result is None:
            raise self._died(tool)
        dumped: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped

    async def close(self) -> None:
        """End the session, and the server's program if there is one. Idempotent."""
        self._closing.set()
        if self._task is not None:
            try:
                await asyncio.wait({self._task}, timeout=_POLITE_S)
            finally:
                self._task.cancel()
            await asyncio.wait({self._task})

    # --- inside ------------------------------------------------------------------------------

    async def _run(self, ready: asyncio.Future[None]) -> None:
        try:
            async with self._connected() as client:
                self._client = client
                self.tools = await _listed(client)
                self._is_open = True
                if not ready.done():
                    ready.set_result(None)
                await self._closing.wait()
        except BaseException as exc:  # noqa: BLE001 - raised where it is opened
            if not ready.done():
                ready.set_exception(self._converted(exc))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """Enter an initialized session of the `mcp` package."""
        server = self._server
        try:
            from mcp import ClientSession  # noqa: PLC0415 - an extra, and slow to import
        except ImportError as exc:
            raise BackendError(
                f"MCP server {server.name!r} needs the package mcp: {install_command('mcp')}"
            ) from exc
        async with AsyncExitStack() as stack:
            if server.command is not None:
                transport = connect_stdio(server, self._stderr, max_bytes=self._max_bytes)
            else:
                transport = connect_http(server, max_bytes=self._max_bytes)
            incoming, outgoing = await stack.enter_async_context(transport)
            session = _without_checks(ClientSession)
            client = await stack.enter_async_context(session(incoming, outgoing))
            await client.initialize()
            yield client

    def _died(self, tool: str) -> ToolDied:
        stderr = self._stderr
        return ToolDied(tool, f"MCP server {self._server.name!r} {stderr.fault}{stderr}")

    def _is_the_connections(self, exc: Exception) -> bool:
        """Return whether an error is the end of the connection, rather than the server's answer."""
        error = getattr(exc, "error", None)
        if error is None:
            return not isinstance(exc, ValueError | RuntimeError)  # raised for a bad answer
        is_over_http = self._server.url is not None
        text = str(getattr(error, "message", ""))
        if getattr(error, "code", None) == _CONNECTION_CLOSED:
            return is_over_http or text == "Connection closed"
        return is_over_http and text == "Session terminated"

    def _converted(self, exc: BaseException) -> BaseException:
        while isinstance(exc, BaseExceptionGroup):  # anyio wraps what happens in its task groups
            exc = exc.exceptions[0]
        if isinstance(exc, KernelError | asyncio.CancelledError):
            return exc
        why = str(exc) or type(exc).__name__
        error = BackendError(
            f"MCP server {self._server.name!r} cannot be used: {why}{self._stderr}"
        )
        error.__cause__ = exc
        return error


async def _listed(client: Any) -> list[dict[str, Any]]:
    """Return the tools of all pages of a server's list."""
    from mcp import types  # noqa: PLC0415 - an extra

    tools: list[dict[str, Any]] = []
    num_bytes = num_pages = 0
    cursor = None
    while True:
        params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
        page = (await client.list_tools(params=params)).model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        tools += page["tools"]
        num_bytes += len(repr(page))
        num_pages += 1
        if len(tools) > _MAX_TOOLS or num_bytes > _MAX_LIST_BYTES or num_pages > _MAX_TOOLS:
            raise BackendError(
                f"an MCP server lists too many tools; allowed: {_MAX_TOOLS:,} tools, "
                f"{_MAX_LIST_BYTES:,} bytes"
            )
        if not (cursor := page.get("nextCursor")):
            return tools


def _without_checks(kind: type[Any]) -> type[Any]:
    """Return a session class that does not check results, which it would do on the shared loop.

    `aios_core.tools.mcp` checks them where a slow pattern of one server delays no other.
    """

    async def nothing(*_: Any, **__: Any) -> None:
        return

    return type(
        kind.__name__,
        (kind,),
        {"validate_tool_result": nothing, "_validate_tool_result": nothing},
    )


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve the exception of an opening that no one awaits, so that asyncio logs no warning."""
    if not task.cancelled():
        task.exception()
