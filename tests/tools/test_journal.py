"""Effects are journaled before they happen, so that repeats and calls in doubt are recognized."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    Agent,
    Conflict,
    Kernel,
    NoSuchObject,
    StateError,
    ToolError,
    ToolInDoubt,
    tool,
)
from aios_core.cores.scripted import ScriptedCore
from aios_core.state import StateOpener
from aios_core.tools.journal import Intent, ToolJournal

from .rig import PATIENCE, Held, OpenDoor, make, quiet_kernel

CRASHING = """
import os, signal, sys
from pathlib import Path
from aios_core import Kernel, KernelConfig, tool
from aios_core.cores.scripted import ScriptedCore

state, effects, when = sys.argv[1:4]

def pay(amount: int) -> str:
    '''Pay.'''
    if when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(effects, "a") as file:
        file.write(f"paid {amount}\\n")
        file.flush()
        os.fsync(file.fileno())
    if when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return "paid"

config = KernelConfig(state={"directory": state}, tools={"plugins": ()})
class OpenDoor:
    def authorize(self, process, access): ...
    def record(self, process, access, outcome): ...

with Kernel(config, gatekeeper=OpenDoor(), cores=[ScriptedCore(lambda request: "ok")]) as kernel:
    kernel.load_tools(tool(name="pay")(pay))
    kernel.load_tools(tool(name="put", idempotent=True)(pay))
    agent = kernel.spawn("alice")
    print(agent.tools.run(sys.argv[4], {"amount": 5}, idempotency_key="invoice 7"), flush=True)
    if when == "answered":
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Till:
    """The effects of a tool on the outside world."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def __call__(self, amount: int) -> str:
        self.paid.append(amount)
        return f"paid {amount}"


AMOUNT = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}


def with_till(kernel: Kernel, till: Till) -> Agent:
    kernel.load_tools(make("pay", till, read_only=False, parameters=AMOUNT))
    kernel.load_tools(make("put", till, read_only=False, idempotent=True, parameters=AMOUNT))
    return kernel.spawn("alice")


def crash(state: Path, effects: Path, when: str, name: str) -> str:
    """Run a program that kills itself at a point, and return what it printed."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", CRASHING, str(state), str(effects), when, name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout


class TestKeys:
    def test_a_repeat_with_the_same_key_is_answered_without_running(self) -> None:
        till = Till()
        with quiet_kernel() as kernel:
            agent = with_till(kernel, till)
            for _ in range(3):
                answer = agent.tools.run("pay", {"amount": 5}, idempotency_key="k")
                assert answer == "paid 5"
        assert till.paid == [5]

    def test_calls_without_a_key_are_calls_of_their_own(self) -> None:
        till = Till()
        with quiet_kernel() as kernel:
            agent = with_till(kernel, till)
            agent.tools.run("pay", {"amount": 5})
            agent.tools.run("pay", {"amount": 5})
        assert till.paid == [5, 5]

    def test_a_key_stands_for_one_set_of_arguments(self) -> None:
        with quiet_kernel() as kernel:
            agent = with_till(kernel, Till())
            agent.tools.run("pay", {"amount": 5}, idempotency_key="k")
            with pytest.raises(Conflict, match="with other arguments"):
                agent.tools.run("pay", {"amount": 6}, idempotency_key="k")

    def test_another_agents_key_is_another_key(self) -> None:
        till = Till()
        with quiet_kernel() as kernel:
            with_till(kernel, till).tools.run("pay", {"amount": 5}, idempotency_key="k")
            kernel.spawn("bob").tools.run("pay", {"amount": 6}, idempotency_key="k")
        assert till.paid == [5, 6]

    def test_a_repeat_while_the_first_is_under_way_is_refused(self) -> None:
        held = Held()
        with quiet_kernel() as kernel:
            kernel.load_tools(make("slow", held, read_only=False))
            agent = kernel.spawn("alice")
            first = threading.Thread(
                target=lambda: agent.tools.run("slow", idempotency_key="k"), daemon=True
            )
            first.start()
            assert held.has_begun()
            with pytest.raises(Conflict, match="is still in flight"):
                agent.tools.run("slow", idempotency_key="k")
            held.may_end.set()
            first.join(PATIENCE)

    def test_a_failed_call_may_be_repeated_with_its_key(self) -> None:
        outcomes: list[Any] = [ToolError("pay", "down"), "paid"]

        @tool
        def pay() -> str:
            """Pay."""
            outcome = outcomes.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return str(outcome)

        with quiet_kernel() as kernel:
            kernel.load_tools(pay)
            agent = kernel.spawn("alice")
            with pytest.raises(ToolError):
                agent.tools.run("pay", idempotency_key="k")
            assert agent.tools.run("pay", idempotency_key="k") == "paid"

    def test_keys_are_remembered_by_the_next_kernel(self, tmp_path: Path) -> None:
        till = Till()
        for _ in range(2):
            with quiet_kernel(tmp_path) as kernel:
                agent = with_till(kernel, till)
                assert agent.tools.run("pay", {"amount": 5}, idempotency_key="k") == "paid 5"
        assert till.paid == [5]

    def test_a_large_result_is_remembered_as_its_reference(self) -> None:
        with quiet_kernel(tools={"max_inline_bytes": 100}) as kernel:
            kernel.load_tools(make("big", lambda: "x" * 1_000, read_only=False))
            agent = kernel.spawn("alice")
            first = agent.tools.run("big", idempotency_key="k")
            assert agent.tools.run("big", idempotency_key="k") == first
            assert agent.tools.read(first) == "x" * 1_000


class TestDoubt:
    def test_an_effect_that_hangs_is_in_doubt_and_settled_by_a_person(self) -> None:
        held = Held()
        with quiet_kernel() as kernel:
            kernel.load_tools(make("pay", held, read_only=False, timeout_s=0.05))
            agent = kernel.spawn("alice")
            with pytest.raises(ToolInDoubt, match=r"^tool 'pay': did not end within"):
                agent.tools.run("pay", {"who": "bob"})

            [doubt] = agent.tools.in_doubt()
            assert (doubt.tool, doubt.arguments) == ("pay@1", {"who": "bob"})
            with pytest.raises(ToolInDoubt, match="a person has to check"):
                agent.tools.run("pay", {"who": "bob"})

            agent.tools.resolve(doubt.call_id, took_effect=True)

            assert agent.tools.in_doubt() == ()
            with pytest.raises(NoSuchObject):
                agent.tools.resolve(doubt.call_id, took_effect=False)
            held.may_end.set()

    def test_a_call_that_ends_after_all_is_in_doubt_no_more(self) -> None:
        held = Held()
        with quiet_kernel() as kernel:
            kernel.load_tools(make("pay", held, read_only=False, timeout_s=0.05))
            agent = kernel.spawn("alice")
            with pytest.raises(ToolInDoubt):
                agent.tools.run("pay", {"who": "bob"}, idempotency_key="k")
            held.may_end.set()
            due = time.monotonic() + PATIENCE
            while agent.tools.in_doubt() and time.monotonic() < due:
                pass
            assert agent.tools.run("pay", {"who": "bob"}, idempotency_key="k") == "bob"
            assert held.order == ["bob"]

    def test_doubts_are_the_agents_own(self) -> None:
        held = Held()
        with quiet_kernel() as kernel:
            kernel.load_tools(make("pay", held, read_only=False, timeout_s=0.05))
            alice, bob = kernel.spawn("alice"), kernel.spawn("bob")
            with pytest.raises(ToolInDoubt):
                alice.tools.run("pay")
            [doubt] = alice.tools.in_doubt()
            assert bob.tools.in_doubt() == ()
            with pytest.raises(NoSuchObject):
                bob.tools.resolve(doubt.call_id, took_effect=True)
            held.may_end.set()

    def test_a_read_only_tool_leaves_no_trace(self, tmp_path: Path) -> None:
        with quiet_kernel(tmp_path / "state") as kernel:
            kernel.load_tools(make("look", lambda: 1))
            assert kernel.spawn("alice").tools.run("look") == 1
        assert not (tmp_path / "state").exists()


class TestCrash:
    @pytest.mark.parametrize(("when", "times"), [("before", 0), ("after", 1)])
    def test_a_payment_that_a_kill_interrupted_is_not_repeated_unseen(
        self, tmp_path: Path, when: str, times: int
    ) -> None:
        state, effects = tmp_path / "state", tmp_path / "effects"
        effects.touch()
        crash(state, effects, when, "pay")
        assert effects.read_text().count("paid 5") == times
        till = Till()

        with quiet_kernel(state) as kernel:
            agent = with_till(kernel, till)
            for key in ("invoice 7", None):  # also by an agent that has forgotten its key
                with pytest.raises(ToolInDoubt):
                    agent.tools.run("pay", {"amount": 5}, idempotency_key=key)
            [doubt] = agent.tools.in_doubt()
            assert not doubt.is_repeatable
            agent.tools.run("pay", {"amount": 6})  # another payment is a different call
            agent.tools.resolve(doubt.call_id, took_effect=bool(times))
            if times:
                with pytest.raises(Conflict, match="has taken effect"):
                    agent.tools.run("pay", {"amount": 5}, idempotency_key="invoice 7")
            else:
                agent.tools.run("pay", {"amount": 5}, idempotency_key="invoice 7")

        assert till.paid == ([6] if times else [6, 5])

    def test_an_idempotent_call_is_run_again_with_its_key(self, tmp_path: Path) -> None:
        state, effects = tmp_path / "state", tmp_path / "effects"
        crash(state, effects, "after", "put")
        till = Till()
        with quiet_kernel(state) as kernel:
            agent = with_till(kernel, till)
            [doubt] = agent.tools.in_doubt()
            assert doubt.is_repeatable
            key = doubt.idempotency_key
            assert agent.tools.run("put", doubt.arguments, idempotency_key=key) == "paid 5"
            assert agent.tools.in_doubt() == ()
        assert till.paid == [5]

    def test_what_was_answered_before_a_kill_is_known_after_it(self, tmp_path: Path) -> None:
        state, effects = tmp_path / "state", tmp_path / "effects"
        assert crash(state, effects, "answered", "pay") == "paid\n"
        till = Till()
        with quiet_kernel(state) as kernel:
            agent = with_till(kernel, till)
            answer = agent.tools.run("pay", {"amount": 5}, idempotency_key="invoice 7")
            assert answer == "paid"
            assert agent.tools.in_doubt() == ()
        assert till.paid == []


class TestStore:
    def test_without_a_state_nothing_with_effects_runs(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.touch()
        till = Till()
        with quiet_kernel(blocked / "state") as kernel:
            agent = with_till(kernel, till)
            with pytest.raises(StateError):
                agent.tools.run("pay", {"amount": 5})
            kernel.check()
        assert till.paid == []

    def test_arguments_and_results_are_sealed_if_the_state_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TEST_STATE_KEY", os.urandom(32).hex())
        monkeypatch.setenv("AIOS_STATE__ENCRYPTION_KEY", "env:TEST_STATE_KEY")
        monkeypatch.setenv("AIOS_STATE__DIRECTORY", str(tmp_path))
        monkeypatch.setenv("AIOS_TOOLS__PLUGINS", "[]")
        for _ in range(2):
            core = ScriptedCore(lambda _request: "ok")
            with Kernel(cores=[core], gatekeeper=OpenDoor()) as kernel:
                kernel.load_tools(make("tell", lambda who: f"secret-{who}", read_only=False))
                agent = kernel.spawn("alice")
                answer = agent.tools.run("tell", {"who": "marker"}, idempotency_key="k")
                assert answer == "secret-marker"
        stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
        assert b"marker" not in stored

    async def test_outcomes_are_forgotten_after_their_time_and_doubts_are_not(
        self, tmp_path: Path
    ) -> None:
        now = [1_000.0]
        pay = make("pay", lambda: None, read_only=False)

        def intent(key: str) -> Intent:
            return Intent("default/alice", pay, {"n": key}, f"id {key}", key, keeps_result=True)

        for life in range(2):
            state = StateOpener(tmp_path, lambda: None)
            journal = ToolJournal(state, keep_s=100.0, wall=lambda: now[0])
            if life == 0:
                for key, outcome in (("a", "done"), ("b", "unknown")):
                    await journal.begin(intent(key))
                    await journal.finish(intent(key), outcome, b'{"value":1}')
                now[0] += 101.0
            else:
                assert await journal.begin(intent("a")) is None  # as if it had never been
                assert [one.call_id for one in await journal.in_doubt("default/alice")] == ["id b"]
            await state.close()
