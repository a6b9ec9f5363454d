"""A third party's pattern, schema, file or server stops no other agent."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_core import InvalidArguments, InvalidRequest, Kernel, McpServer, Tool, ToolError
from aios_core.errors import BackendError, Overloaded
from aios_core.tools import load_limit, schema_processes
from aios_core.untrusted.blocking_calls import call_on_thread

from .rig import PATIENCE, make, quiet_kernel

FOR_EVER = {"x": "a" * 40 + "!"}  # to match against (a+)+$ takes Python's `re` years
PATTERNS: dict[str, dict[str, Any]] = {
    "pattern": {"properties": {"x": {"pattern": "^(a+)+$"}}},
    "patternProperties": {"patternProperties": {"^(a+)+$": {}}},
    "propertyNames": {"propertyNames": {"pattern": "^(a+)+$"}},
    "in a branch": {"properties": {"x": {"anyOf": [{"pattern": "^(a+)+$"}]}}},
    "behind a reference": {
        "properties": {"x": {"$ref": "#/$defs/slow"}},
        "$defs": {"slow": {"pattern": "^(a+)+$"}},
    },
    "branches without end": {
        "properties": {"x": {"$ref": "#/$defs/b20"}},
        "$defs": {
            "b0": {"type": "integer"},
            **{
                f"b{n}": {"anyOf": [{"$ref": f"#/$defs/b{n - 1}"}] * 4, "title": "x"}
                for n in range(1, 21)
            },
        },
    },
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "patternProperties": {FOR_EVER["x"]: 1},
    "propertyNames": {FOR_EVER["x"]: 1},
}


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_processes, "CHECK_S", 0.5)


def _slow(name: str, parameters: dict[str, Any]) -> Tool:
    return make(name, lambda **_: "here", parameters={"type": "object", **parameters})


@pytest.mark.parametrize("name", PATTERNS)
def test_a_schema_that_takes_for_ever_fails_its_caller_alone(name: str) -> None:
    with quiet_kernel() as kernel:
        kernel.load_tools(_slow("slow", PATTERNS[name]))
        agent = kernel.spawn("alice")
        with pytest.raises(InvalidArguments, match="its schema takes too long"):
            agent.tools.run("slow", ARGUMENTS.get(name, FOR_EVER))
        kernel.check()


def test_a_schema_with_patterns_is_checked_and_mended_as_any_other() -> None:
    parameters = {
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "n": {"type": "integer"},
        }
    }
    with quiet_kernel() as kernel:
        kernel.load_tools(
            make("order", lambda **given: given, parameters={"type": "object", **parameters})
        )
        tools = kernel.spawn("alice").tools
        assert tools.run("order", {"code": "ABC", "n": "3"}) == {"code": "ABC", "n": 3}
        with pytest.raises(InvalidArguments, match=r"code: got \"abc\", expected a text that"):
            tools.run("order", {"code": "abc"})


async def test_others_do_not_wait_for_a_slow_check_and_neither_does_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schema_processes, "CHECK_S", 600.0)
    async with quiet_kernel() as kernel:
        await kernel.aload_tools(_slow("slow", PATTERNS["pattern"]))
        await kernel.aload_tools(make("fine", lambda: "here"))
        rude = [await kernel.aspawn(f"rude{number}") for number in range(4)]
        slow = [asyncio.ensure_future(one.tools.arun("slow", FOR_EVER)) for one in rude * 10]
        agent = await kernel.aspawn("alice")
        async with asyncio.timeout(PATIENCE * 6):
            for number in range(20):
                await agent.memory.awrite("note", f"{number}")
                await agent.storage.awrite("note.txt", "x" * 100_000)
                assert await agent.tools.arun("fine") == "here"
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        assert not any(one.done() for one in slow)
    assert all(one.exception() for one in slow)


async def test_an_agent_with_many_slow_checks_waits_behind_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schema_processes, "CHECK_S", 600.0)
    async with quiet_kernel() as kernel:
        await kernel.aload_tools(_slow("slow", PATTERNS["pattern"]))
        rude, agent = await kernel.aspawn("rude"), await kernel.aspawn("alice")
        slow = [asyncio.ensure_future(rude.tools.arun("slow", FOR_EVER)) for _ in range(20)]
        async with asyncio.timeout(PATIENCE * 6):
            assert await agent.tools.arun("slow", {"x": "aaa"}) == "here"
        assert not any(one.done() for one in slow)
    assert all(one.exception() for one in slow)


async def test_the_checks_of_one_agent_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_processes, "CHECK_S", 600.0)
    monkeypatch.setattr(schema_processes, "_MAX_WAITING", 3)
    async with quiet_kernel() as kernel:
        await kernel.aload_tools(_slow("slow", PATTERNS["pattern"]))
        rude = await kernel.aspawn("rude")
        slow = [asyncio.ensure_future(rude.tools.arun("slow", FOR_EVER)) for _ in range(4)]
        done, _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
        assert [type(one.exception()) for one in done] == [Overloaded]
    assert all(one.exception() for one in slow)


# --- loading -------------------------------------------------------------------------------------


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a file that loads only when the test ends, and offers nothing then."""
    go_on = threading.Event()
    monkeypatch.setattr(threading, "go_on", go_on, raising=False)
    file = tmp_path / "hanging.py"
    file.write_text("import threading\nthreading.go_on.wait()\n")
    yield file
    go_on.set()


def test_code_that_hangs_while_it_is_loaded_is_given_up(hanging: Path) -> None:
    with quiet_kernel(tools={"load_timeout_s": 0.2}) as kernel:
        with pytest.raises(ToolError, match=r"not loaded within 0\.2 s"):
            kernel.load_tools(hanging)
        kernel.load_tools(make("fine", lambda: "here"))
        assert kernel.spawn("alice").tools.run("fine") == "here"


def test_a_configured_source_that_hangs_does_not_keep_the_others_out(
    tmp_path: Path, hanging: Path
) -> None:
    good = tmp_path / "good.py"
    good.write_text(
        "from aios_core import tool\n@tool(read_only=True)\ndef fine() -> str: return 'here'\n"
    )
    tools = {"load_timeout_s": 2.0, "load": (str(hanging), str(good))}
    with quiet_kernel(tools=tools) as kernel:
        assert kernel.spawn("alice").tools.run("fine") == "here"


async def test_an_agent_that_loads_what_hangs_keeps_no_other_waiting(
    hanging: Path,
) -> None:
    async with quiet_kernel() as kernel:
        rude, agent = await kernel.aspawn("rude"), await kernel.aspawn("alice")
        loads = [asyncio.ensure_future(rude.tools.aoffer(hanging)) for _ in range(5)]
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await agent.tools.aoffer(make("fine", lambda: "here"))
            assert await agent.tools.arun("fine") == "here"
        assert not any(one.done() for one in loads)
        for one in loads:
            one.cancel()
        await asyncio.wait(loads)


def test_loads_that_hang_are_bounded(hanging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_limit, "MAX_OF_PROGRAM", 2)
    with quiet_kernel(tools={"load_timeout_s": 0.1}) as kernel:
        for _ in range(2):
            with pytest.raises(ToolError, match="not loaded within"):
                kernel.load_tools(hanging)
        with pytest.raises(Overloaded, match="the queue of tool loads"):
            kernel.load_tools(hanging)


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_has_no_end_is_not_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "source.py"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        monkeypatch.setattr("aios_core.tools.import_code._MAX_SOURCE_BYTES", 10)
        file.write_text("x = 1 + 2 + 3\n")
    with (
        quiet_kernel() as kernel,
        pytest.raises(InvalidRequest, match=r"not a regular file|too large"),
    ):
        kernel.load_tools(file)


def test_tools_without_an_end_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "endless.py"
    file.write_text(
        "from itertools import count\n"
        "from aios_core import Tool, hookimpl\n"
        "@hookimpl\n"
        "def aios_tools():\n"
        "    return (Tool(f't{n}', '', {}, print) for n in count())\n"
    )
    with quiet_kernel() as kernel, pytest.raises(InvalidRequest, match="more than 1,000 tools"):
        kernel.load_tools(file)


# --- MCP servers ---------------------------------------------------------------------------------


SERVER = """
import json, sys

def answer(id, result):
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)

RESULTS = {"slow": "a" * 40 + "!", "good": "aa", "bad": "b"}

for line in sys.stdin:
    asked = json.loads(line)
    match asked.get("method"):
        case "initialize":
            answer(asked["id"], {
                "protocolVersion": asked["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "probe", "version": "1"},
            })
        case "tools/list":
            page = {"tools": [{
                "name": "it",
                "inputSchema": {"type": "object"},
                "outputSchema": {
                    "type": "object", "properties": {"x": {"pattern": "^(a+)+$"}},
                },
            }]}
            if sys.argv[1] == "endless":
                page["nextCursor"] = "more"
            answer(asked["id"], page)
        case "tools/call":
            found = {"x": RESULTS[sys.argv[1]]}
            answer(asked["id"], {"content": [], "structuredContent": found})
        case _ if "id" in asked:
            answer(asked["id"], {})
"""


def _server(tmp_path: Path, kind: str) -> McpServer:
    pytest.importorskip("mcp")
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    return McpServer(kind, sys.executable, (str(program), kind), timeout_s=60.0)


@pytest.fixture
def kernel() -> Any:
    with quiet_kernel() as kernel:
        yield kernel
        kernel.check()


def test_a_result_that_takes_for_ever_to_check_stops_no_other_server(
    kernel: Kernel, tmp_path: Path
) -> None:
    kernel.load_tools(_server(tmp_path, "slow"))
    kernel.load_tools(_server(tmp_path, "good"))
    kernel.load_tools(_server(tmp_path, "bad"))
    tools = kernel.spawn("alice").tools

    with pytest.raises(ToolError, match="takes too long"):
        tools.run("slow_it")
    assert tools.run("good_it") == {"x": "aa"}
    with pytest.raises(ToolError, match="does not fit its schema"):
        tools.run("bad_it")


def test_a_list_of_tools_without_an_end_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="lists too many tools"):
        kernel.load_tools(_server(tmp_path, "endless"))


# --- threads of their own ------------------------------------------------------------------------


async def test_foreign_calls_use_no_thread_of_the_loops_pool() -> None:
    go_on = threading.Event()
    hanging = [asyncio.ensure_future(call_on_thread(go_on.wait, "test")) for _ in range(100)]
    await asyncio.sleep(0)
    assert await asyncio.to_thread(lambda: "here") == "here"
    go_on.set()
    assert await asyncio.gather(*hanging) == [True] * 100


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt, ValueError])
async def test_whatever_a_foreign_call_raises_reaches_its_caller(kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("x")

    with pytest.raises(Exception, match="x"):
        await call_on_thread(fail, "test")


async def test_a_foreign_call_that_is_late_hands_its_result_to_be_freed() -> None:
    go_on, freed = threading.Event(), asyncio.Event()

    def late(result: bool) -> None:
        assert result
        freed.set()

    with pytest.raises(TimeoutError):
        await call_on_thread(go_on.wait, "test", timeout_s=0.01, on_late=late)
    go_on.set()
    await freed.wait()
