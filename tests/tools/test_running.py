"""Tools run in parallel, check access, and harm only their callers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    Accounting,
    Agent,
    DeadlineExceeded,
    InvalidArguments,
    InvalidRequest,
    Kernel,
    NoSuchObject,
    RunawayStopped,
    SandboxUnavailable,
    ToolContext,
    ToolError,
    ToolInDoubt,
    ToolUnavailable,
    tool,
)
from aios_core.manager import Gatekeeper
from aios_core.permissions import Access
from aios_core.process import AgentProcess
from aios_core.testing.leftovers import nothing_left
from aios_core.tools import ToolRun
from aios_core.tools.requests import ToolList

from .rig import PATIENCE, Held, make, quiet_kernel

IN_PROCESSES = '''
import os, sys, time
from aios_core import InvalidArguments, ToolContext, tool

@tool(isolation="process", read_only=True)
def pid() -> int:
    """Where it runs."""
    return os.getpid()

@tool(isolation="process", read_only=True)
def die(code: int = 3) -> None:
    """End the process."""
    os._exit(code)

@tool(isolation="process")
def pay_and_die() -> None:
    """Has effects, perhaps."""
    os._exit(1)

@tool(isolation="process", read_only=True)
def leave() -> None:
    """Exit politely."""
    sys.exit(4)

@tool(isolation="process", read_only=True, timeout_s=0.5)
def hang() -> None:
    """Never end."""
    while True:
        time.sleep(0.01)

@tool(isolation="process", read_only=True)
def flood(size: int) -> str:
    """Say much."""
    print("x" * 1_000_000)
    return "x" * size

@tool(isolation="process", read_only=True)
def refuse() -> None:
    """Refuse its arguments."""
    raise InvalidArguments("refuse", {"x": "is not nice"})

@tool(isolation="process", read_only=True)
def who(context: ToolContext) -> list[str]:
    """Who calls."""
    return [context.caller, context.tool, str(context.attempt)]
'''


def processes(tmp_path: Path) -> Path:
    file = tmp_path / "processes.py"
    file.write_text(IN_PROCESSES)
    return file


class TestCalling:
    def test_a_tool_gets_its_arguments_and_its_answer_comes_back(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        kernel.load_tools(make("echo", lambda who: {"said": [who]}))
        assert agent.tools.run("echo", {"who": "me"}) == {"said": ["me"]}
        assert agent.tools.run("echo@1", '{"who": "you"}') == {"said": ["you"]}

    def test_a_coroutine_function_is_awaited_off_the_kernels_loop(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        async def where(who: str = "") -> str:
            await asyncio.sleep(0)
            return who + threading.current_thread().name

        kernel.load_tools(make("where", where))
        assert agent.tools.run("where", {"who": "in "}).startswith("in aios-tool-")

    def test_an_unknown_tool_is_refused_with_the_known_ones(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        kernel.load_tools(make("echo", lambda: 1))
        with pytest.raises(NoSuchObject, match=r"no tool 'ecko'; have \['echo'\]"):
            agent.tools.run("ecko")
        with pytest.raises(NoSuchObject, match=r"have \['echo@1'\]"):
            agent.tools.run("echo@2")

    def test_bad_arguments_never_reach_the_tool(self, kernel: Kernel, agent: Agent) -> None:
        called: list[str] = []
        kernel.load_tools(make("note", called.append))
        with pytest.raises(InvalidArguments, match="who: got 1, expected a text"):
            agent.tools.run("note", {"who": 1})
        assert called == []

    def test_a_stranger_cannot_change_arguments_after_they_were_checked(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        given = {"who": "me"}
        request = ToolRun("echo", given)
        given["who"] = "somebody else"
        kernel.load_tools(make("echo", lambda who: who))
        assert agent.port.call(request) == "me"

    def test_the_context_tells_the_tool_whose_call_it_is(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        @tool(trusted=True)
        def who(context: ToolContext) -> list[str]:
            """Return who calls."""
            known = context.port.call(ToolList())
            return [context.caller, context.idempotency_key, context.tool, known[0].name]

        kernel.load_tools(who)
        answer = agent.tools.run("who", idempotency_key="k1")
        assert answer == ["default/alice", "k1", "who@1", "who"]

    def test_settings_reach_the_tool_that_they_are_for(self) -> None:
        @tool(read_only=True)
        def greet(context: ToolContext) -> str:
            """Greet."""
            return str(context.settings["word"])

        with quiet_kernel(tools={"settings": {"greet": {"word": "hi"}}}) as kernel:
            kernel.load_tools(greet)
            assert kernel.spawn("alice").tools.run("greet") == "hi"

    def test_a_tool_may_not_run_tools(self, kernel: Kernel, agent: Agent) -> None:
        @tool(read_only=True)
        def outer(context: ToolContext) -> Any:
            """Try."""
            return context.port.call(ToolRun("outer"))

        kernel.load_tools(outer)
        with pytest.raises(InvalidRequest, match="only agents run tools"):
            agent.tools.run("outer")

    def test_without_a_sandbox_there_is_no_code_runner(self) -> None:
        context = ToolContext("code@1", "default/alice", "c1", "k1")
        with pytest.raises(SandboxUnavailable, match="code is not run without one"):
            _ = context.code_runner

    def test_what_an_untrusted_tool_returns_labels_the_agent(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        kernel.load_tools(make("own", lambda: 1))
        kernel.load_tools(make("web", lambda: 1, trusted=False))
        agent.tools.run("own")
        assert kernel.processes.get(agent.pid).labels == set()
        agent.tools.run("web")
        assert kernel.processes.get(agent.pid).labels == {"tool:web"}

    def test_calls_are_accounted(self, kernel: Kernel, agent: Agent) -> None:
        kernel.load_tools(make("echo", lambda: 1))
        agent.tools.run("echo")
        books: Accounting = agent.accounting
        assert books.num_requests["tool.run"] == 1
        assert books.num_calls == 1

    def test_a_runaway_loop_of_tool_calls_is_stopped(self) -> None:
        with quiet_kernel() as kernel:
            kernel.processes.guard = type(kernel.processes.guard)(max_repeats=3)
            kernel.load_tools(make("echo", lambda: 1))
            agent = kernel.spawn("alice")
            for _ in range(3):
                agent.tools.run("echo")
            with pytest.raises(RunawayStopped, match="same call"):
                agent.tools.run("echo")


class Doorkeeper(Gatekeeper):
    def __init__(self) -> None:
        self.seen: list[Access] = []

    def authorize(self, process: AgentProcess, access: Access) -> Awaitable[None] | None:
        assert process.name
        self.seen.append(access)
        return None

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        """Nothing."""


class TestAccess:
    def test_the_check_sees_the_tool_its_mended_arguments_and_what_cannot_be_undone(self) -> None:
        door = Doorkeeper()

        @tool(irreversible="sends money", version="2")
        def pay(amount: int) -> str:
            """Pay."""
            return f"paid {amount}"

        with quiet_kernel(gatekeeper=door) as kernel:
            kernel.load_tools(pay)
            kernel.spawn("alice").tools.run("pay", {"amount": "5"})

        [access] = door.seen
        assert str(access.resource) == "tool::pay"
        assert access.right == "execute"
        assert access.arguments == {"amount": 5, "@version": "2"}
        assert access.irreversible == "sends money"

    def test_no_argument_can_pass_for_the_version(self, agent: Agent) -> None:
        with pytest.raises(InvalidArguments, match="starts with '@'"):
            agent.tools.run("pay", {"@version": "1"})


class TestHarm:
    def test_what_a_tool_raises_is_its_callers(self, kernel: Kernel, agent: Agent) -> None:
        def fail() -> None:
            raise ZeroDivisionError("by 0")

        kernel.load_tools(make("fail", fail))
        with pytest.raises(ToolError, match="'fail': raised ZeroDivisionError: by 0") as caught:
            agent.tools.run("fail")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    def test_exit_is_its_callers_too(self, kernel: Kernel, agent: Agent) -> None:
        def leave() -> None:
            raise SystemExit(3)

        kernel.load_tools(make("leave", leave))
        with pytest.raises(ToolError, match=r"called exit\(3\)"):
            agent.tools.run("leave")

    @pytest.mark.parametrize("value", [object(), float("nan"), {1: 2}, b"x", "\ud800"])
    def test_a_result_that_is_no_json_is_refused(
        self, kernel: Kernel, agent: Agent, value: Any
    ) -> None:
        kernel.load_tools(make("odd", lambda: value))
        with pytest.raises(ToolError, match="did not return a JSON value"):
            agent.tools.run("odd")

    def test_a_flood_is_refused(self) -> None:
        with quiet_kernel(tools={"max_result_bytes": 1_000}) as kernel:
            kernel.load_tools(make("flood", lambda: "x" * 2_000))
            with pytest.raises(ToolError, match="returned 2,000 bytes"):
                kernel.spawn("alice").tools.run("flood")

    def test_a_tool_that_hangs_harms_only_its_caller(self, kernel: Kernel, held: Held) -> None:
        kernel.load_tools(make("hang", held, timeout_s=0.05))
        kernel.load_tools(make("echo", lambda: "here"))
        with pytest.raises(ToolError, match=r"did not end within 0\.05 s"):
            kernel.spawn("alice").tools.run("hang")
        assert kernel.spawn("bob").tools.run("echo") == "here"
        held.may_end.set()

    def test_hanging_calls_do_not_use_up_the_workers(self, held: Held) -> None:
        with quiet_kernel(tools={"max_running": 2, "breaker_failures": 0}) as kernel:
            kernel.load_tools(make("hang", held, timeout_s=0.05))
            kernel.load_tools(make("echo", lambda: "here"))
            alice = kernel.spawn("alice")
            for _ in range(2):
                with pytest.raises(ToolError):
                    alice.tools.run("hang")
            assert alice.tools.run("echo") == "here"
            held.may_end.set()

    def test_a_hanging_call_keeps_what_it_holds_until_it_ends(
        self, kernel: Kernel, held: Held
    ) -> None:
        kernel.load_tools(make("hang", held, timeout_s=0.05, exclusive=("lock",)))
        kernel.load_tools(make("needs", lambda: "mine", exclusive=("lock",)))
        agent = kernel.spawn("alice")
        with pytest.raises(ToolError):
            agent.tools.run("hang")
        with pytest.raises(DeadlineExceeded):
            agent.tools.run("needs", timeout_s=0.1)
        held.may_end.set()
        assert agent.tools.run("needs") == "mine"

    def test_those_that_wait_for_what_a_hanging_call_holds_are_told(
        self, kernel: Kernel, held: Held
    ) -> None:
        kernel.load_tools(make("hang", held, timeout_s=0.05, exclusive=("lock",)))
        kernel.load_tools(make("needs", lambda: "mine", exclusive=("lock",)))
        agent = kernel.spawn("alice")
        with pytest.raises(ToolError):
            agent.tools.run("hang")
        with pytest.raises(ToolUnavailable, match="which a hanging call of hang@1 holds"):
            agent.tools.run("needs", timeout_s=PATIENCE)
        held.may_end.set()


class TestProcesses:
    def test_a_tool_may_run_in_a_process_of_its_own_which_is_kept(
        self, kernel: Kernel, agent: Agent, tmp_path: Path
    ) -> None:
        kernel.load_tools(processes(tmp_path))
        first, second = agent.tools.run("pid"), agent.tools.run("pid")
        assert first == second != os.getpid()
        assert agent.tools.run("who") == ["default/alice", "who@1", "1"]

    def test_one_that_dies_or_exits_harms_only_its_caller(
        self, kernel: Kernel, agent: Agent, tmp_path: Path
    ) -> None:
        kernel.load_tools(processes(tmp_path))
        with pytest.raises(ToolError, match=r"its process died \(exit status 3\)"):
            agent.tools.run("die")
        with pytest.raises(ToolError, match=r"called exit\(4\)"):
            agent.tools.run("leave")
        with pytest.raises(InvalidArguments, match="x: is not nice"):
            agent.tools.run("refuse")
        assert agent.tools.run("pid") > 0

    def test_one_that_hangs_is_killed(self, kernel: Kernel, agent: Agent, tmp_path: Path) -> None:
        kernel.load_tools(processes(tmp_path))
        with pytest.raises(ToolError, match="did not end within"):
            agent.tools.run("hang")
        assert agent.tools.run("pid") > 0

    def test_one_that_floods_is_refused(self, tmp_path: Path) -> None:
        with quiet_kernel(tools={"max_result_bytes": 10_000}) as kernel:
            kernel.load_tools(processes(tmp_path))
            agent = kernel.spawn("alice")
            with pytest.raises(ToolError, match="more than 10,000 bytes"):
                agent.tools.run("flood", {"size": 1_000_000})
            assert agent.tools.run("flood", {"size": 10}) == "x" * 10

    def test_one_with_effects_that_dies_is_in_doubt(
        self, kernel: Kernel, agent: Agent, tmp_path: Path
    ) -> None:
        kernel.load_tools(processes(tmp_path))
        with pytest.raises(ToolInDoubt, match="it is unknown whether it took effect"):
            agent.tools.run("pay_and_die")
        assert [doubt.tool for doubt in agent.tools.in_doubt()] == ["pay_and_die@1"]

    def test_a_function_that_no_process_can_import_is_refused_at_once(self, kernel: Kernel) -> None:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec("def lost() -> None: 'Lost.'", namespace)  # noqa: S102
        with pytest.raises(InvalidRequest, match="has to import it"):
            kernel.load_tools(tool(isolation="process")(namespace["lost"]))

    def test_a_file_that_changed_since_it_was_loaded_is_not_run_unseen(
        self, kernel: Kernel, agent: Agent, tmp_path: Path
    ) -> None:
        file = processes(tmp_path)
        kernel.load_tools(file)
        file.write_text(IN_PROCESSES + "\n# another one\n")
        with pytest.raises(ToolError, match="has changed since it was loaded"):
            agent.tools.run("pid")

    def test_closing_leaves_no_process_and_no_thread(self, tmp_path: Path) -> None:
        with nothing_left(), quiet_kernel() as kernel:
            kernel.load_tools(processes(tmp_path))
            kernel.spawn("alice").tools.run("pid")
