"""Transport MCP messages over a program's pipes or over HTTP, with a bound on their size.

The transport over pipes replaces that of the `mcp` package, which has no limit: a server that
writes without end would take all memory. A server's standard error is logged, and its last
part is added to the error when the server cannot be used.

Promises: no message takes more than `max_bytes`; leaving the context ends the program and all
its descendants within a few times `GRACE_S`, even if they ignore signals or have left its
session (`aios_core.guardian`).
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from aios_core.guarded_program import (
    Lifeline,
    ask_guardian_to_kill,
    kill_group,
    start_guarded,
)
from aios_core.shielding import finish_shielded
from aios_core.tools.requests import McpServer

log = logging.getLogger(__name__)

GRACE_S: Final = 2.0  # for a server to end after its input is closed, and again after a signal
_TAIL_BYTES: Final = 1_000  # of standard error, in a message
_READ_S: Final = 300.0  # between two chunks of an answer over HTTP


class StderrTail:
    """The last part of a server's standard error, as a reason why the server ended."""

    def __init__(self, name: str) -> None:
        self.fault = "has ended"  # or what it did wrong
        self._name = name
        self._tail = b""

    def __str__(self) -> str:
        text = self._tail.decode(errors="replace").strip()
        return f"; its standard error ends with: {text}" if text else ""

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read and log standard error to its end."""
        while piece := await stream.read(65_536):
            self._tail = (self._tail + piece)[-_TAIL_BYTES:]
            log.debug("MCP server %s: %s", self._name, piece.decode(errors="replace").rstrip())


@asynccontextmanager
async def connect_stdio(
    server: McpServer, tail: StderrTail, *, max_bytes: int
) -> AsyncIterator[tuple[Any, Any]]:
    """Start a server's program and enter the streams of its messages, incoming and outgoing.

    The incoming stream ends when the program ends.

    Raises:
        OSError: the program cannot be started.
    """
    from anyio import create_memory_object_stream, create_task_group  # noqa: PLC0415 - of the extra
    from mcp.client.stdio import get_default_environment  # noqa: PLC0415

    environment = get_default_environment() | dict(server.env)
    program = _require_program(server, environment)
    lifeline = Lifeline()
    process = await start_guarded(
        lifeline,
        [program, *server.args],
        env=environment,
        cwd=server.cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=max_bytes,
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or stderr is None:
        raise RuntimeError("a server has pipes")
    arrived, incoming = create_memory_object_stream[Any](0)
    outgoing, leaving = create_memory_object_stream[Any](0)
    following = asyncio.create_task(tail.follow(stderr))
    try:
        async with create_task_group() as group:
            group.start_soon(_receive, stdout, arrived, tail, max_bytes)
            group.start_soon(_send, leaving, stdin)
            try:
                yield incoming, outgoing
            finally:
                group.cancel_scope.cancel()
    finally:
        for stream in (arrived, incoming, outgoing, leaving):
            stream.close()
        # Even if cancelled again, the program must not be left running.
        await finish_shielded(_end(process, following, lifeline))


def _require_program(server: McpServer, environment: Mapping[str, str]) -> str:
    """Return the path of the program to start. Raises `FileNotFoundError` if there is none."""
    command = server.command or ""
    if "/" in command:
        path = Path(server.cwd or ".", command).expanduser()
        found = str(path.absolute()) if os.access(path, os.X_OK) else None
    else:
        found = shutil.which(command, path=environment.get("PATH"))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command)
    return found


async def _receive(
    stdout: asyncio.StreamReader, arrived: Any, tail: StderrTail, max_bytes: int
) -> None:
    """Parse messages, one a line, and send them on; a bad line is sent as its `ValueError`."""
    from anyio import BrokenResourceError, ClosedResourceError  # noqa: PLC0415
    from mcp.shared.message import SessionMessage  # noqa: PLC0415

    parse = _parser()
    with suppress(BrokenResourceError, ClosedResourceError):
        async with arrived:
            while True:
                try:
                    line = await stdout.readline()
                except ValueError:
                    tail.fault = f"wrote a message of more than {max_bytes:,} bytes"
                    return
                if not line:
                    return
                try:
                    message: Any = SessionMessage(parse(line))
                except ValueError as exc:
                    message = exc
                await arrived.send(message)


async def _send(leaving: Any, stdin: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # the program has ended, which `_receive` notices
        async for message in leaving:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            stdin.write(f"{text}\n".encode())
            await stdin.drain()


def _parser() -> Callable[[bytes], Any]:
    """Return the parser of messages: an adapter in mcp 2.x, a model in 1.x."""
    from mcp import types  # noqa: PLC0415

    adapter = getattr(types, "jsonrpc_message_adapter", None)
    if adapter is not None:
        return lambda line: adapter.validate_json(line, by_name=False)
    read: Callable[[bytes], Any] = types.JSONRPCMessage.model_validate_json  # type: ignore[attr-defined, unused-ignore]
    return read


async def _end(
    process: asyncio.subprocess.Process, following: asyncio.Task[None], lifeline: Lifeline
) -> None:
    """Close the program's input, then ask it to end, then kill it, as the protocol requires."""
    if process.stdin is not None:
        process.stdin.close()
    ways: tuple[Callable[[int], object], ...] = (
        lambda _: None,
        lambda pid: os.killpg(pid, signal.SIGTERM),  # to the program; its guardian stays
        ask_guardian_to_kill,
        kill_group,
    )
    for way in ways:
        with suppress(ProcessLookupError, PermissionError):
            way(process.pid)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE_S)
            break
    lifeline.cut()
    following.cancel()
    await asyncio.wait({following})
    transport: Any = getattr(process, "_transport", None)  # else it is closed when collected
    if transport is not None:
        transport.close()


@asynccontextmanager
async def connect_http(server: McpServer, *, max_bytes: int) -> AsyncIterator[tuple[Any, Any]]:
    """Enter the streams of messages from and to a URL (streamable HTTP)."""
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415 - of the extra

    known = inspect.signature(streamable_http_client).parameters
    options: dict[str, Any] = {}
    if "max_sse_event_size" in known:  # not in mcp 1.x
        options["max_sse_event_size"] = max_bytes
    client = _client(sys.modules[streamable_http_client.__module__], server, max_bytes)
    async with (
        client,
        streamable_http_client(server.url or "", http_client=client, **options) as streams,
    ):
        yield streams[0], streams[1]


def _client(transport: Any, server: McpServer, max_bytes: int) -> Any:
    """Make a client of the HTTP library that `mcp` uses: httpx for 1.x, httpx2 for 2.x."""
    library = getattr(transport, "httpx2", None) or transport.httpx

    class Bounded(library.AsyncByteStream):  # type: ignore[misc, name-defined]
        """A response body that raises when it gets larger than `max_bytes`."""

        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in self._stream:
                size += len(piece)
                if size > max_bytes:
                    raise library.StreamError(f"an answer of more than {max_bytes:,} bytes")
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: Any) -> None:
        # A stream of events has no end; each event has the limit of `max_sse_event_size`.
        if "text/event-stream" not in response.headers.get("content-type", ""):
            response.stream = Bounded(response.stream)

    hooks: dict[str, list[Callable[[Any], Awaitable[None]]]] = {"response": [bound]}
    return library.AsyncClient(
        headers=dict(server.headers),
        timeout=library.Timeout(server.timeout_s, read=_READ_S),
        event_hooks=hooks,
    )
