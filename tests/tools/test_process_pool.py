"""Tools in processes: their descendants end with them, and starting up does not count as theirs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aios_core import InvalidRequest, Kernel, McpServer, Tool, ToolError
from aios_core.guarded_program import Lifeline, ask_guardian_to_kill
from aios_core.tools import dispatcher
from aios_core.tools.function_origin import FunctionOrigin

from .rig import PATIENCE, TEXT, quiet_kernel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_CHILD_SUBREAPER")

# Leaves its parent, its process group and its session, and reports its pid on a pipe.
ESCAPE = """
import os, sys, time

def escape(path):
    told, tell = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            with open(path, "w") as pipe:
                pipe.write(str(os.getpid()))
            os.write(tell, b"x")
            time.sleep(1_000)
        os._exit(0)
    os.read(told, 1)
"""
TOOLS = (
    ESCAPE
    + '''
from aios_core import Tool, tool

@tool(isolation="process", read_only=True)
def leave(path: str) -> str:
    """Leave a process behind."""
    escape(path)
    return "left"

@tool(isolation="process", read_only=True, timeout_s=3.0)
def leave_and_hang(path: str) -> None:
    """Leave a process behind, and never end."""
    escape(path)
    time.sleep(1_000)

@tool(isolation="process", read_only=True)
def leave_and_die(path: str) -> None:
    """Leave a process behind, and die."""
    escape(path)
    os._exit(3)
'''
)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe on which an escaped process reports its pid."""
    path = tmp_path / "escaped"
    os.mkfifo(path)
    return path


class Escaped:
    """A process that has left its parent, group and session, seen from outside."""

    def __init__(self, pipe: Path) -> None:
        self._told: list[str] = []
        self._reader = threading.Thread(
            target=lambda: self._told.append(pipe.read_text()), daemon=True
        )
        self._reader.start()

    def has_ended(self) -> bool:
        self._reader.join(PATIENCE * 6)
        descriptor = _pidfd(int(self._told[0]))
        if descriptor is None:
            return True
        with open(descriptor, "rb"):  # noqa: PTH123 - a descriptor
            return bool(select.select([descriptor], [], [], PATIENCE)[0])


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    file = tmp_path / "leaving.py"
    file.write_text(TOOLS)
    with quiet_kernel() as kernel:
        kernel.load_tools(file)
        yield kernel
        kernel.check()


def test_what_a_tool_left_behind_ends_with_the_kernel(tmp_path: Path, pipe: Path) -> None:
    file = tmp_path / "leaving.py"
    file.write_text(TOOLS)
    escaped = Escaped(pipe)
    with quiet_kernel() as kernel:
        kernel.load_tools(file)
        assert kernel.spawn("alice").tools.run("leave", {"path": str(pipe)}) == "left"
    assert escaped.has_ended()


@pytest.mark.parametrize(
    ("name", "why"),
    [("leave_and_hang", "did not end within"), ("leave_and_die", r"died \(exit status 3\)")],
)
def test_what_a_tool_left_behind_ends_with_its_process(
    kernel: Kernel, pipe: Path, name: str, why: str
) -> None:
    escaped = Escaped(pipe)
    with pytest.raises(ToolError, match=why):
        kernel.spawn("alice").tools.run(name, {"path": str(pipe)})
    assert escaped.has_ended()


def _guarded(code: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Lifeline]:
    lifeline = Lifeline()
    process = subprocess.Popen(  # noqa: S603 - this Python
        lifeline.command([sys.executable, "-c", code, *arguments]),
        pass_fds=(lifeline.descriptor,),
        start_new_session=True,
    )
    lifeline.started()
    return process, lifeline


@pytest.mark.parametrize(
    "end",
    [
        lambda process, _: ask_guardian_to_kill(process.pid),
        lambda _, lifeline: lifeline.cut(),
    ],
    ids=["asked", "its owner has died"],
)
def test_a_guardian_ends_all_that_its_program_started(
    pipe: Path, end: Callable[[Any, Any], object]
) -> None:
    escaped = Escaped(pipe)
    hang = ESCAPE + "escape(sys.argv[1]); print(flush=True); time.sleep(1_000)"
    process, lifeline = _guarded(hang, str(pipe))
    escaped._reader.join(PATIENCE * 6)
    end(process, lifeline)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert escaped.has_ended()
    lifeline.cut()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("import sys; sys.exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_a_guardian_ends_as_its_program_did(code: str, status: int) -> None:
    process, lifeline = _guarded(code)
    assert process.wait(PATIENCE * 2) == status
    lifeline.cut()


def test_starting_up_is_not_the_tools_time(tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text(
        "import sys, time\nfrom aios_core import tool\n"
        "if 'aios_core.tools.process_main' in sys.modules: time.sleep(3.5)\n"
        '@tool(isolation="process", read_only=True, timeout_s=3.0)\n'
        "def quick() -> str: return 'here'\n"
    )
    with quiet_kernel() as kernel:
        kernel.load_tools(file)
        assert kernel.spawn("alice").tools.run("quick") == "here"


def test_one_that_never_starts_up_is_refused_and_not_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "START_UP_S", 0.2)
    file = tmp_path / "never.py"
    file.write_text(
        "import sys, time\nfrom aios_core import tool\n"
        "if 'aios_core.tools.process_main' in sys.modules: time.sleep(1_000)\n"
        '@tool(isolation="process")\n'
        "def pay() -> str: return 'paid'\n"
    )
    with quiet_kernel() as kernel:
        kernel.load_tools(file)
        agent = kernel.spawn("alice")
        with pytest.raises(ToolError, match="its process was not ready"):
            agent.tools.run("pay")
        assert agent.tools.in_doubt() == ()
        kernel.check()


# --- where a function is found again -------------------------------------------------------------


def at_top_level(who: str = "") -> str:
    """Be found at the top level."""
    return who


class Holder:
    @staticmethod
    def static(who: str = "") -> str:
        return who

    def method(self, who: str = "") -> str:
        return who


def made(prefix: str) -> Callable[[str], str]:
    def nested(who: str = "") -> str:
        return prefix + who

    return nested


def _in_process(function: Callable[..., Any]) -> Tool:
    return Tool("it", "", TEXT, function, isolation="process", read_only=True)


ASSIGNED = _in_process(partial(at_top_level, who="x"))
FROM_A_FACTORY = _in_process(made("y"))


@pytest.mark.parametrize(
    ("made_tool", "attribute"),
    [
        (_in_process(at_top_level), "at_top_level"),
        (_in_process(Holder.static), "Holder.static"),
        (ASSIGNED, "ASSIGNED"),
        (FROM_A_FACTORY, "FROM_A_FACTORY"),
    ],
    ids=["function", "static", "assigned partial", "assigned closure"],
)
def test_what_another_process_finds_is_taken(made_tool: Tool, attribute: str) -> None:
    assert FunctionOrigin.of(made_tool).attribute == attribute
    with quiet_kernel() as kernel:
        kernel.load_tools(made_tool)


@pytest.mark.parametrize(
    "function",
    [
        made("x"),
        lambda who: who,
        partial(at_top_level, "x"),
        Holder().method,
        at_top_level.__call__,
    ],
    ids=["closure", "lambda", "partial", "method", "slot"],
)
@pytest.mark.parametrize("is_private", [True, False])
def test_what_no_process_finds_again_is_refused_when_it_is_offered(
    function: Callable[..., Any], is_private: bool
) -> None:
    with quiet_kernel() as kernel:
        agent = kernel.spawn("alice")
        offer = agent.tools.offer if is_private else agent.tools.load
        with pytest.raises(InvalidRequest, match="is to run in a process of its own"):
            offer(_in_process(function))


@pytest.mark.parametrize(
    "function",
    [made("x"), lambda who: f"x{who}", partial(at_top_level), Holder().method],
    ids=["closure", "lambda", "partial", "method"],
)
def test_on_a_thread_all_of_them_run(function: Callable[..., Any]) -> None:
    with quiet_kernel() as kernel:
        agent = kernel.spawn("alice")
        agent.tools.offer(Tool("it", "", TEXT, function, read_only=True))
        assert agent.tools.run("it", {"who": "me"}) in ("me", "xme")


def test_a_decorated_function_is_found_by_another_process(tmp_path: Path) -> None:
    file = tmp_path / "factory.py"
    file.write_text(
        "from aios_core import hookimpl, tool\n"
        "def make(prefix):\n"
        "    @tool(name=f'say_{prefix}', isolation='process', read_only=True)\n"
        "    def say(who: str) -> str: return prefix + who\n"
        "    return say\n"
        "@hookimpl\n"
        "def aios_tools(): return [make('a'), make('b')]\n"
    )
    with quiet_kernel() as kernel:
        kernel.load_tools(file)
        agent = kernel.spawn("alice")
        assert agent.tools.run("say_a", {"who": "x"}) == "ax"
        assert agent.tools.run("say_b", {"who": "x"}) == "bx"


def test_a_top_level_function_of_an_installed_module_runs_in_a_process() -> None:
    dedent = Tool(
        "dedent",
        "",
        {"type": "object", "properties": {"text": {"type": "string"}}},
        textwrap.dedent,
        isolation="process",
        read_only=True,
    )
    with quiet_kernel() as kernel:
        kernel.load_tools(dedent)
        assert kernel.spawn("alice").tools.run("dedent", {"text": "  x"}) == "x"


def test_what_an_mcp_server_left_behind_ends_with_it(tmp_path: Path, pipe: Path) -> None:
    pytest.importorskip("mcp")
    server = tmp_path / "server.py"
    real = Path(__file__).with_name("mcp_server.py")
    server.write_text(
        ESCAPE
        + f"escape({str(pipe)!r})\n"
        + f"os.execv(sys.executable, [sys.executable, {str(real)!r}, 'stdio'])\n"
    )
    escaped = Escaped(pipe)
    with quiet_kernel() as kernel:
        kernel.load_tools(McpServer("probe", sys.executable, (str(server),)))
        escaped._reader.join(PATIENCE * 6)
    assert escaped.has_ended()
