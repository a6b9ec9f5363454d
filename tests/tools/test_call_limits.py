"""Limits of tool calls: slots, deadlines and cancellation."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Self

import pytest

from aios_core import (
    Agent,
    DeadlineExceeded,
    InvalidArguments,
    Kernel,
    RateLimited,
    RetryLater,
    SchedulingPolicyError,
    SyscallCancelled,
    ToolContext,
    ToolError,
    ToolUnavailable,
    tool,
)
from aios_core.queueing.policy import Rank, WaitingCall
from aios_core.scheduler import FIFO
from aios_core.testing.leftovers import nothing_left

from .rig import PATIENCE, Held, make, quiet_kernel


class TestLimits:
    def test_calls_run_side_by_side_up_to_the_tools_limit(self, held: Held) -> None:
        with quiet_kernel() as kernel:
            kernel.load_tools(make("slow", held, parallel=2))
            agent = kernel.spawn("alice")
            with ThreadCalls() as calls:
                for _ in range(4):
                    calls.start(lambda: agent.tools.run("slow"))
                assert held.has_begun(2)
                [info] = agent.tools.list()
                assert (info.num_running, info.num_waiting) == (2, 2)
                held.may_end.set()
            assert held.most_at_once == 2

    def test_exclusive_tools_do_not_overlap(self, held: Held) -> None:
        with quiet_kernel() as kernel:
            for name in ("read", "write"):
                kernel.load_tools(make(name, held, exclusive=("disk",)))
            agent = kernel.spawn("alice")
            held.may_end.set()
            with ThreadCalls() as calls:
                for number in range(10):
                    calls.start(lambda name=("read", "write")[number % 2]: agent.tools.run(name))
            assert len(held.order) == 10
            assert held.most_at_once == 1

    def test_a_heavy_agent_does_not_starve_the_others(self, held: Held) -> None:
        with quiet_kernel(tools={"max_running": 1}, policy="fair") as kernel:
            kernel.load_tools(make("work", held))
            heavy, light = kernel.spawn("heavy"), kernel.spawn("light")
            with ThreadCalls() as calls:
                calls.start(lambda: heavy.tools.run("work", {"who": "heavy"}))
                assert held.has_begun()
                for _ in range(20):
                    calls.start(lambda: heavy.tools.run("work", {"who": "heavy"}))
                until(lambda: heavy.tools.list()[0].num_waiting == 20)
                calls.start(lambda: light.tools.run("work", {"who": "light"}))
                until(lambda: heavy.tools.list()[0].num_waiting == 21)
                held.may_end.set()
            assert held.order[1] == "light"

    def test_a_tool_that_fails_too_often_is_left_alone(self, kernel: Kernel, agent: Agent) -> None:
        def fail() -> None:
            raise OSError("down")

        kernel.load_tools(make("fail", fail))
        for _ in range(5):
            with pytest.raises(ToolError):
                agent.tools.run("fail")
        with pytest.raises(ToolUnavailable, match="failed too often recently") as caught:
            agent.tools.run("fail")
        assert 0 < caught.value.retry_after_s <= 30
        assert agent.tools.list()[0].refused_for_s > 0

    def test_bad_arguments_do_not_open_the_breaker(self, kernel: Kernel, agent: Agent) -> None:
        def refuse() -> None:
            raise InvalidArguments("refuse", {"x": "no"})

        kernel.load_tools(make("refuse", refuse))
        for _ in range(10):
            with pytest.raises(InvalidArguments):
                agent.tools.run("refuse")

    def test_an_idempotent_tool_is_tried_again(self, kernel: Kernel, agent: Agent) -> None:
        attempts: list[tuple[int, str]] = []

        @tool(idempotent=True, retries=2, trusted=True)
        def flaky(context: ToolContext) -> str:
            """Fail twice."""
            attempts.append((context.attempt, context.idempotency_key))
            if len(attempts) == 1:
                raise ConnectionError("once")
            if len(attempts) == 2:
                raise RetryLater("busy", 0.0)
            return "done"

        kernel.load_tools(flaky)
        assert agent.tools.run("flaky", idempotency_key="k") == "done"
        assert attempts == [(1, "k"), (2, "k"), (3, "k")]

    @pytest.mark.parametrize("pause", [float("nan"), -5.0])
    def test_a_pause_that_is_no_time_does_not_stop_an_idempotent_tool(
        self, kernel: Kernel, agent: Agent, pause: float
    ) -> None:
        attempts: list[int] = []

        @tool(idempotent=True, retries=1, trusted=True)
        def flaky() -> str:
            """Fail once."""
            attempts.append(1)
            if len(attempts) == 1:
                raise RateLimited("busy", pause)
            return "done"

        kernel.load_tools(flaky)
        assert agent.tools.run("flaky") == "done"

    def test_a_tool_that_asks_for_a_year_is_not_waited_for(
        self, kernel: Kernel, agent: Agent
    ) -> None:
        @tool(idempotent=True, retries=1, trusted=True)
        def busy() -> None:
            """Fail."""
            raise RateLimited("busy", 31_536_000)

        kernel.load_tools(busy)
        with pytest.raises(RateLimited) as caught:
            agent.tools.run("busy")
        assert caught.value.retry_after_s == 86_400

    def test_a_tool_that_does_not_say_so_is_tried_once(self, kernel: Kernel, agent: Agent) -> None:
        attempts: list[int] = []

        @tool
        def flaky() -> None:
            """Fail."""
            attempts.append(1)
            raise ConnectionError("once")

        kernel.load_tools(flaky)
        with pytest.raises(ToolError):
            agent.tools.run("flaky")
        assert attempts == [1]


class TestTakingBack:
    async def test_cancelling_the_await_tells_the_tool(self) -> None:
        told = threading.Event()
        began = threading.Event()

        @tool(read_only=True)
        def patient(context: ToolContext) -> None:
            """Wait for the end."""
            began.set()
            if context.cancellation.wait(PATIENCE):
                told.set()
            context.raise_if_cancelled()

        async with quiet_kernel() as kernel:
            await kernel.aload_tools(patient)
            agent = await kernel.aspawn("alice")
            call = asyncio.ensure_future(agent.tools.arun("patient"))
            assert await asyncio.to_thread(began.wait, PATIENCE)

            call.cancel()

            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(told.wait, PATIENCE)

    async def test_a_coroutine_function_is_cancelled_with_its_call(self) -> None:
        began, cancelled = threading.Event(), threading.Event()

        async def wait() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with quiet_kernel() as kernel:
            await kernel.aload_tools(make("wait", wait))
            agent = await kernel.aspawn("alice")
            call = asyncio.ensure_future(agent.tools.arun("wait"))
            assert await asyncio.to_thread(began.wait, PATIENCE)
            await kernel.aexit(agent.pid)
            with pytest.raises(SyscallCancelled):
                await call
            assert await asyncio.to_thread(cancelled.wait, PATIENCE)

    async def test_a_waiting_call_that_is_cancelled_holds_nothing(self, held: Held) -> None:
        async with quiet_kernel() as kernel:
            await kernel.aload_tools(make("slow", held, parallel=1))
            agent = await kernel.aspawn("alice")
            first = asyncio.ensure_future(agent.tools.arun("slow"))
            assert await asyncio.to_thread(held.has_begun)
            with pytest.raises(DeadlineExceeded):
                await agent.tools.arun("slow", timeout_s=0.05)
            [info] = await agent.tools.alist()
            assert (info.num_running, info.num_waiting) == (1, 0)
            held.may_end.set()
            await first
            assert await agent.tools.arun("slow") == ""

    def test_closing_the_kernel_ends_tools_that_listen(self) -> None:
        began = threading.Event()

        @tool(read_only=True)
        def patient(context: ToolContext) -> None:
            """Wait for the end."""
            began.set()
            context.cancellation.wait(PATIENCE)

        with nothing_left():
            kernel = quiet_kernel().start()
            kernel.load_tools(patient)
            agent = kernel.spawn("alice")
            with ThreadCalls(expected=Exception) as calls:
                calls.start(lambda: agent.tools.run("patient"))
                assert began.wait(PATIENCE)
                kernel.close()


class ThreadCalls:
    """Calls on threads, which are joined at the end; their exceptions are raised again."""

    def __init__(self, expected: type[BaseException] | tuple[()] = ()) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._expected = expected

    def start(self, call: Any) -> None:
        def run() -> None:
            try:
                call()
            except self._expected:
                return
            except BaseException as exc:  # noqa: BLE001
                self._errors.append(exc)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exc: object, tb: object) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        if kind is None:
            assert not self._errors, self._errors


def until(holds: Any) -> None:
    """Wait for a condition of the kernel; each check is a round through its loop."""
    for _ in range(5_000):
        if holds():
            return
    raise AssertionError("it never held")


def test_a_scheduling_policy_that_raises_fails_that_tool_call_and_no_other() -> None:
    class Picky(FIFO):
        def rank(self, call: WaitingCall) -> Rank:
            if call.agent.name == "odd":  # type: ignore[attr-defined]
                raise ZeroDivisionError
            return super().rank(call)

    with quiet_kernel(policy=Picky()) as kernel:
        kernel.load_tools(make("t", lambda: "served"))
        odd, other = kernel.spawn("odd"), kernel.spawn("other")

        with pytest.raises(SchedulingPolicyError, match="'Picky': `rank` failed"):
            odd.tools.run("t", {})
        assert other.tools.run("t", {}) == "served"
        kernel.check()
