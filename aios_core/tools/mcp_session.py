"""One MCP server as long as it is offered: its session, made anew when it was lost.

Lives on the loop of `aios_core.tools.mcp`. A session's contexts are entered and left
by a task of its own, as the package asks.

Promises: callers that find the session lost share one new one; what was being opened
for nobody any more is closed; a call whose connection broke is not known to have failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aios_core.distribution import install_command
from aios_core.errors import BackendError, KernelError, ToolError, ToolUnavailable
from aios_core.tools.mcp_transports import LastWords, http, pipes
from aios_core.tools.requests import McpServer
from aios_core.tools.tool_process import ToolDied

_POLITE_S: Final = 3.0  # for taking leave of a server
_MAX_TOOLS: Final = 1_000  # of one server
_MAX_LIST_BYTES: Final = 16 << 20
_CONNECTION_CLOSED: Final = -32_000  # of the package; servers use it for errors of their own too


class Connection:
    """See the module."""

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
        """Connect; the tools as the protocol lists them. Raises `BackendError`."""
        return (await self._opened()).tools

    async def call(self, tool: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run a tool; its result as the protocol has it. `tool` is what it is called here.

        Raises:
            ToolDied: the connection broke in the middle.
            ToolError: the server answered with an error of the protocol.
            ToolUnavailable: the server was loaded again, or unloaded.
            BackendError: the connection was lost before, and there is no new one.
        """
        if self._is_closed:
            raise ToolUnavailable(tool, "is offered by a new connection now", 0.0)
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
        """Take no more calls, and close once those under way have ended."""
        self._is_closed = True
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Close now. Idempotent."""
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
            self._opening.add_done_callback(_heard)
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Session:
        """A new session, within `timeout_s`."""
        if self._session is not None:
            await self._session.close()
        session = self._session = _Session(self._server, self._max_bytes)
        try:
            async with asyncio.timeout(self._server.timeout_s):
                await session.open()
        except TimeoutError as exc:
            told = f"did not answer within {self._server.timeout_s:g} s"
            raise BackendError(f"MCP server {self._server.name!r} {told}") from exc
        return session


class _Session:
    """One life of the connection."""

    def __init__(self, server: McpServer, max_bytes: int) -> None:
        self.tools: list[dict[str, Any]] = []
        self._server = server
        self._max_bytes = max_bytes
        self._words = LastWords(server.name)
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
        """Connect and list the tools. Cancelling the await ends it. Raises `BackendError`."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"mcp {self._server.name}: life")
        try:
            await ready
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def call(self, tool: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Connection.call`."""
        if self._task is None:
            raise RuntimeError("a session is opened before it is used")
        calling = asyncio.ensure_future(self._client.call_tool(name, dict(arguments)))
        try:
            await asyncio.wait({calling, self._task}, return_when=asyncio.FIRST_COMPLETED)
            result = calling.result() if calling.done() else None
        except Exception as exc:
            if self._is_the_connections(exc):
                self._has_broken = True
                raise self._broke(tool) from exc
            raise ToolError(tool, f"the MCP server said: {exc}") from exc
        finally:
            calling.cancel()
        if result is None:
            raise self._broke(tool)
        dumped: dict[str, Any] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped

    async def close(self) -> None:
        """End it, and the program if there is one. Idempotent."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_POLITE_S)
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- inside ------------------------------------------------------------------------------

    async def _live(self, ready: asyncio.Future[None]) -> None:
        try:
            async with self._connected() as client:
                self._client = client
                self.tools = await _listed(client)
                self._is_open = True
                if not ready.done():
                    ready.set_result(None)
                await self._closing.wait()
        except BaseException as exc:  # noqa: BLE001 - told to whoever opens it
            if not ready.done():
                ready.set_exception(self._converted(exc))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """A session of the package, initialised."""
        server = self._server
        try:
            from mcp import ClientSession  # noqa: PLC0415 - an extra, and slow to import
        except ImportError as exc:
            raise BackendError(
                f"MCP server {server.name!r} needs the package mcp: {install_command('mcp')}"
            ) from exc
        async with AsyncExitStack() as stack:
            if server.command is not None:
                transport = pipes(server, self._words, max_bytes=self._max_bytes)
            else:
                transport = http(server, max_bytes=self._max_bytes)
            incoming, outgoing = await stack.enter_async_context(transport)
            session = _without_checks(ClientSession)
            client = await stack.enter_async_context(session(incoming, outgoing))
            await client.initialize()
            yield client

    def _broke(self, tool: str) -> ToolDied:
        words = self._words
        return ToolDied(tool, f"MCP server {self._server.name!r} {words.fault}{words}")

    def _is_the_connections(self, exc: Exception) -> bool:
        """Return whether an error is the end of the connection, rather than the server's answer."""
        error = getattr(exc, "error", None)
        if error is None:
            return not isinstance(exc, ValueError | RuntimeError)  # those refuse an answer
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
        error = BackendError(f"MCP server {self._server.name!r} cannot be used: {why}{self._words}")
        error.__cause__ = exc
        return error


async def _listed(client: Any) -> list[dict[str, Any]]:
    """The tools of all pages."""
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
    """A session class that does not check results itself: it would do so on the shared loop.

    `aios_core.tools.mcp` does, where a pattern of one server can stop no other.
    """

    async def nothing(*_: Any, **__: Any) -> None:
        return

    return type(
        kind.__name__,
        (kind,),
        {"validate_tool_result": nothing, "_validate_tool_result": nothing},
    )


def _heard(task: asyncio.Task[Any]) -> None:
    """An opening that failed after those who waited for it had gone."""
    if not task.cancelled():
        task.exception()
