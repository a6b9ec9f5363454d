"""A whole kernel: who may call it from where, how it starts and how it closes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from aios_core import (
    BackendError,
    CoreError,
    Kernel,
    KernelClosed,
    KernelConfig,
    RunawayStopped,
    WouldBlock,
)
from aios_core.core import ReportSink
from aios_core.process import RunawayGuard
from aios_core.testing import SimulatedCore
from tests.puppet import PATIENCE, PuppetCore, asks, booted, error_of, settled, virtual

from .rig import QUICK, echo, in_thread, until

# --- who may call from where ----------------------------------------------------------------------


def test_a_plain_program_asks_and_hears(boot: Callable[..., Kernel]) -> None:
    agent = boot().spawn("reader")

    assert agent.llm.generate("hello").text == "hello"
    assert agent.accounting.num_calls == 1


@virtual
async def test_a_program_with_a_loop_asks_and_hears_without_a_thread() -> None:
    before = threading.active_count()
    async with booted(echo()) as kernel:
        agent = await kernel.aspawn("reader")

        assert (await agent.llm.agenerate("hello")).text == "hello"
        assert threading.active_count() == before


def test_many_threads_and_many_loops_get_their_own_answers(boot: Callable[..., Kernel]) -> None:
    agent = boot(config=KernelConfig(guard=RunawayGuard(max_repeats=None))).spawn("shared")

    def blocking(first: int) -> list[str]:
        return [agent.llm.generate(str(n)).text for n in range(first, first + 25)]

    def looping(first: int) -> list[str]:
        async def ask() -> list[str]:
            numbers = range(first, first + 25)
            answers = await asyncio.gather(*(agent.llm.agenerate(str(n)) for n in numbers))
            return [answer.text for answer in answers]

        return asyncio.run(ask())

    with ThreadPoolExecutor(8) as threads:
        works = [threads.submit(f, n * 25) for n, f in enumerate([blocking, looping] * 4)]
        heard = [work.result(PATIENCE) for work in works]

    assert list(chain(*heard)) == [str(n) for n in range(200)]


def test_an_agent_may_be_spawned_and_ended_from_another_loop(boot: Callable[..., Kernel]) -> None:
    kernel = boot()

    async def live() -> str:
        async with await kernel.aspawn("a", group="g", weight=2.0) as agent:
            child = await agent.aspawn("b")
            return (await child.llm.agenerate("hello")).text

    assert asyncio.run(live()) == "hello"
    assert len(kernel.processes) == 0


@pytest.mark.parametrize("method", ["generate", "stream"])
@virtual
async def test_a_blocking_call_on_the_kernels_own_loop_is_refused(method: str) -> None:
    async with booted(echo()) as kernel:
        agent = kernel.spawn("a")

        with pytest.raises(WouldBlock, match=f"use a{method}"):
            getattr(agent.llm, method)("hi")


@pytest.mark.parametrize("method", ["freeze", "close"])
@virtual
async def test_blocking_life_cycle_calls_on_the_kernels_own_loop_are_refused(method: str) -> None:
    async with booted(echo()) as kernel:
        agent = kernel.spawn("a")
        kernel._thread = object()  # type: ignore[assignment]

        with pytest.raises(WouldBlock):
            agent.freeze() if method == "freeze" else kernel.close()


def test_the_loop_answers_others_while_a_caller_waits(boot: Callable[..., Kernel]) -> None:
    core = PuppetCore(slots=2)
    kernel = boot(core)
    slow = in_thread(lambda: kernel.spawn("slow").llm.generate("slow"))
    until(lambda: core.runs)
    quick = in_thread(lambda: kernel.spawn("quick").llm.generate("quick"))
    until(lambda: len(core.runs) == 2)

    core.finish(core.id_of("quick"))

    assert quick.result(PATIENCE)
    assert not slow.done()
    core.finish()
    slow.result(PATIENCE)


# --- life -----------------------------------------------------------------------------------------


def test_a_kernel_that_was_not_started_says_so() -> None:
    kernel = Kernel(QUICK, cores=[echo()])

    with pytest.raises(KernelClosed, match="not started"):
        kernel.spawn("a")


def test_a_kernel_is_started_once(boot: Callable[..., Kernel]) -> None:
    kernel = boot()

    with pytest.raises(KernelClosed, match="once"):
        kernel.start()
    kernel.close()
    with pytest.raises(KernelClosed, match="once"):
        kernel.start()


def test_after_close_everything_is_refused_and_nothing_hangs() -> None:
    with Kernel(QUICK, cores=[echo()]) as kernel:
        agent = kernel.spawn("a")
    kernel.close()

    with pytest.raises(KernelClosed):
        agent.llm.generate("hi")
    with pytest.raises(KernelClosed):
        agent.llm.stream("hi")
    with pytest.raises(KernelClosed):
        kernel.spawn("b")
    with pytest.raises(KernelClosed):
        agent.freeze()
    with pytest.raises(KernelClosed):
        asyncio.run(agent.llm.agenerate("hi"))
    with pytest.raises(KernelClosed):
        asyncio.run(kernel.afreeze(agent.pid))
    with pytest.raises(KernelClosed):
        kernel.check()
    agent.exit()


@virtual
async def test_after_close_the_own_loop_is_refused_too() -> None:
    async with Kernel(QUICK, cores=[echo()]) as kernel:
        agent = kernel.spawn("a")

    with pytest.raises(KernelClosed):
        await agent.llm.agenerate("hi")
    with pytest.raises(KernelClosed):
        await kernel.aspawn("b")
    with pytest.raises(KernelClosed):
        await kernel.afreeze(agent.pid)
    with pytest.raises(KernelClosed):
        await anext(agent.llm.astream("hi"))
    await kernel.aclose()


def test_closing_gives_calls_under_way_their_time(boot: Callable[..., Kernel]) -> None:
    core = PuppetCore()
    kernel = boot(core, config=KernelConfig(drain_s=PATIENCE))
    answer = in_thread(lambda: kernel.spawn("a").llm.generate("hi"))
    until(lambda: core.runs)
    closing = in_thread(kernel.close)
    until(lambda: "closed" in repr(kernel))

    core.finish()

    assert answer.result(PATIENCE)
    closing.result(PATIENCE)
    assert core.num_closes == 1


def test_closing_at_once_answers_running_and_waiting_calls(boot: Callable[..., Kernel]) -> None:
    core = PuppetCore()
    kernel = boot(core)
    agent = kernel.spawn("a")
    calls = [in_thread(lambda: agent.llm.generate("hi")) for _ in range(5)]
    until(lambda: len(agent._process.live_calls) == 5)

    kernel.close(0)

    assert all(isinstance(call.exception(PATIENCE), KernelClosed) for call in calls)


def test_callers_that_race_with_the_end_are_all_answered() -> None:
    for _ in range(10):
        kernel = Kernel(QUICK, cores=[echo()]).start()
        agent = kernel.spawn("a")

        def hammer(agent: object = agent) -> str:
            try:
                while True:
                    agent.llm.generate("hi")  # type: ignore[attr-defined]
            except (KernelClosed, RunawayStopped) as exc:
                return type(exc).__name__

        callers = [in_thread(hammer) for _ in range(4)]
        until(lambda: agent.accounting.num_calls > 4)  # noqa: B023
        kernel.close()
        for caller in callers:
            caller.result(PATIENCE)


def test_an_exception_in_the_block_closes_at_once_and_passes_through() -> None:
    core = PuppetCore()
    patient = KernelConfig(drain_s=3_600)  # longer than any test may take

    with pytest.raises(ZeroDivisionError), Kernel(patient, cores=[core]) as kernel:  # noqa: PT012
        agent = kernel.spawn("a")
        call = in_thread(lambda: agent.llm.generate("hi"))
        until(lambda: core.runs)
        _ = 1 / 0

    assert isinstance(call.exception(PATIENCE), KernelClosed)


@virtual
async def test_a_close_that_is_cancelled_frees_everything_all_the_same() -> None:
    core = PuppetCore()
    kernel = Kernel(KernelConfig(drain_s=60), cores=[core])
    await kernel.__aenter__()
    call = asks(kernel.spawn("a"))
    await settled()
    closing = asyncio.ensure_future(kernel.aclose())
    await asyncio.sleep(1)

    closing.cancel()

    assert isinstance(await error_of(closing), asyncio.CancelledError)
    assert isinstance(await error_of(call), KernelClosed)
    assert core.num_closes == 1


class LateCore(PuppetCore):
    """A core that is started again only while the kernel closes it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_up = False
        self.may_start = asyncio.Event()

    async def start(self, sink: ReportSink) -> None:
        if self.num_starts:
            await self.may_start.wait()
        await super().start(sink)
        self.is_up = True

    async def close(self) -> None:
        await super().close()
        self.is_up = False
        self.may_start.set()
        await settled()


@virtual
async def test_a_core_that_starts_again_while_the_kernel_closes_is_closed_too() -> None:
    core = LateCore()
    async with booted(core):
        core.die(CoreError("puppet", "unplugged"))
        await asyncio.sleep(60)

    assert core.num_starts == 2
    assert not core.is_up


def test_a_kernel_without_any_core_that_starts_is_refused_with_the_reasons() -> None:
    core, other = PuppetCore("one"), PuppetCore("two")
    core.refuses_to_start = CoreError("one", "no such device")
    other.refuses_to_start = OSError("no route")

    with pytest.raises(BackendError, match=r"no such device.*no route"):
        Kernel(QUICK, cores=[core, other]).start()

    assert core.num_closes == other.num_closes == 1


def test_ctrl_c_ends_a_blocked_call_and_the_program() -> None:
    program = """
        import sys
        from aios_core import Kernel, KernelConfig
        from aios_core.cores import ScriptedCore

        with Kernel(KernelConfig(), cores=[ScriptedCore("late", latency_s=3600)]) as kernel:
            agent = kernel.spawn("a")
            kernel.subscribe(lambda event: print(event.kind, flush=True))
            agent.llm.generate("hi")
    """
    process = subprocess.Popen(  # noqa: S603 - our own text
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    while "call.dispatched" not in process.stdout.readline():
        assert process.poll() is None

    process.send_signal(2)
    said, complaint = process.communicate(timeout=PATIENCE)

    assert "cancelled" in said
    assert "KeyboardInterrupt" in complaint
    assert "Exception ignored" not in complaint


# --- the whole, in virtual time -------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fifo", "round_robin", "priority", "fair", "las", "auto"])
@virtual
async def test_a_crowd_on_a_small_device_is_served_to_the_last(policy: str) -> None:
    core = SimulatedCore()
    async with booted(core, policy=policy) as kernel:
        agents = [kernel.spawn(f"a{i}", group=f"g{i % 3}", priority=i % 3) for i in range(60)]
        calls = [
            asks(agent, "go", extra={"sim_prompt_tokens": 500 * (1 + n), "sim_output_tokens": 90})
            for n in range(3)
            for agent in agents
        ]
        for call in calls[::7]:
            call.cancel()
        await asyncio.wait(calls)
        core.check()

        outcomes = [None if c.cancelled() else type(c.exception()) for c in calls]
        assert outcomes == [None if i % 7 == 0 else type(None) for i in range(180)]
        assert core.load().num_running == 0
