"""An MCP server for tests, made with the official package: `mcp_server.py KIND`.

It answers, fails, dies, hangs and floods on demand, and reports events by files in the
directory `MARKS`, so that a test waits for an event instead of a duration. Over HTTP it prints
its port once it listens.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

try:
    from mcp.server import MCPServer as Server
except ImportError:  # mcp 1.x
    from mcp.server.fastmcp import FastMCP as Server  # type: ignore[no-redef]

try:
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:
    from mcp.server.fastmcp.exceptions import ToolError  # type: ignore[no-redef]

from mcp.types import ToolAnnotations

server: Any = Server("probe")
STDOUT = os.dup(1)  # the server lends descriptor 1 to its tools, and means another by it


def mark(name: str) -> None:
    """Report an event to the test."""
    if directory := os.environ.get("MARKS"):
        (Path(directory) / f"{name}.{os.getpid()}").touch()


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
def add(a: int, b: int) -> dict[str, int]:
    """Add two numbers."""
    mark("add")
    return {"sum": a + b}


@server.tool(structured_output=False)
def say(text: str) -> str:
    """Return the text."""
    return f"you said {text}"


@server.tool()
def fail(text: str) -> str:
    """Fail with a message."""
    raise ToolError(text)


@server.tool()
def pid() -> dict[str, int]:
    """Return the pid of the server."""
    return {"pid": os.getpid()}


@server.tool()
def key(name: str) -> dict[str, str]:
    """Return a variable of the environment."""
    return {"value": os.environ.get(name, "")}


@server.tool(annotations=ToolAnnotations(idempotentHint=True, destructiveHint=False))
def die() -> str:
    """End the process in the middle of the call."""
    mark("dies")
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Never answer."""
    import anyio  # noqa: PLC0415 - a dependency of mcp

    mark("hangs")
    try:
        await anyio.sleep_forever()
    finally:
        mark("withdrawn")
    return ""


@server.tool()
async def wait() -> dict[str, int]:
    """Answer once the test allows it."""
    import anyio  # noqa: PLC0415

    mark("waits")
    while not (Path(os.environ["MARKS"]) / "go").exists():  # noqa: ASYNC110 - in another process
        await anyio.sleep(0.01)
    return {"pid": os.getpid()}


@server.tool(structured_output=False)
def flood(size: int) -> str:
    """Answer with that many letters."""
    return "x" * size


@server.tool()
def pour() -> str:
    """Write to standard output, and never end the line."""
    mark("pours")
    while True:
        os.write(STDOUT, b"x" * 65_536)


def deaf() -> None:
    """Answer nothing, and do not end when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark("deaf")
    while True:
        time.sleep(0.05)


def http(port: int = 0) -> None:
    """Serve on localhost."""
    import uvicorn  # noqa: PLC0415 - a dependency of mcp

    listening = socket.create_server(("127.0.0.1", port))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    uvicorn.Server(config).run(sockets=[listening])


def broken() -> None:
    """Write the reason to standard error, and end."""
    sys.exit("no token, no service")


def chatty() -> None:
    """Serve, and write much to standard error."""
    sys.stderr.write("y" * 300_000)
    sys.stderr.flush()
    server.run("stdio")


def ambiguous() -> None:
    """Serve with two tools that get equal names when these are adapted to models."""
    server.tool(name="say.it")(say)
    server.tool(name="say/it")(say)
    server.run("stdio")


KINDS: dict[str, Any] = {
    "stdio": lambda: server.run("stdio"),
    "http": http,
    "deaf": deaf,
    "broken": broken,
    "chatty": chatty,
    "ambiguous": ambiguous,
}

if __name__ == "__main__":
    mark("started")
    KINDS[sys.argv[1]](*map(int, sys.argv[2:]))
