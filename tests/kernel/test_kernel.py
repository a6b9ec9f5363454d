"""The kernel at its border: threads, loops, life and death. What it decides is tested elsewhere."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import pytest

from aios_core import (
    BackendError,
    Budget,
    BudgetExceeded,
    CoreError,
    EventKind,
    EventLog,
    InvalidRequest,
    Kernel,
    KernelClosed,
    KernelConfig,
    KernelEvent,
    NoSuchObject,
    Overloaded,
    Price,
    ProcessState,
    RunawayStopped,
    SchedulingPolicyError,
    SyscallCancelled,
    WouldBlock,
)
from aios_core.config import GroupConfig, SchedulerConfig
from aios_core.core import Core
from aios_core.cores import ScriptedCore
from aios_core.process import Guard
from aios_core.scheduler import FIFO
from aios_core.testing import SimulatedCore
from tests.puppet import PATIENCE, PuppetCore, asks, booted, error_of, settled, virtual

QUICK = KernelConfig(drain_s=0.0)


def echo() -> ScriptedCore:
    return ScriptedCore(lambda request: request.messages[-1].content)


@pytest.fixture
def boot() -> Iterator[Callable[..., Kernel]]:
    """Start kernels with a thread of their own; checked and closed when the test ends."""
    started: list[Kernel] = []

    def start(*cores: Core, config: KernelConfig = QUICK, **settings: object) -> Kernel:
        started.append(Kernel(config, cores=cores or [echo()], **settings).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for kernel in started:
        if "running" in repr(kernel):
            kernel.check()
        kernel.close()


def in_thread(work: Callable[[], object]) -> Future[object]:
    """Run something on a thread that dies with the test run."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - it is the test's
            done.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return done


def until(holds: Callable[[], object]) -> None:
    """Wait for something that another thread brings about."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


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
    agent = boot(config=KernelConfig(guard=Guard(max_repeats=None))).spawn("shared")

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


# --- agents ---------------------------------------------------------------------------------------


@virtual
async def test_an_agents_end_cancels_its_calls_and_those_of_its_children() -> None:
    core = PuppetCore(slots=1)
    async with booted(core) as kernel:
        parent = kernel.spawn("parent", budget=Budget(tokens=500))
        child = parent.spawn("child")
        stranger = kernel.spawn("stranger")
        calls = [asks(parent, "running", max_tokens=5), asks(child, "waiting", max_tokens=5)]
        other = asks(stranger, "other")
        await settled()

        parent.exit()

        assert [type(await error_of(call)) for call in calls] == [SyscallCancelled] * 2
        assert core.prompts == ["other"]
        assert (parent.state, child.state) == (ProcessState.EXITED, ProcessState.EXITED)
        assert len(kernel.processes) == 1
        assert parent._process.budget.reserved.tokens == 0
        core.finish()
        await other


@virtual
async def test_an_agent_that_raises_in_its_block_is_ended_and_others_go_on() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with kernel.spawn("unlucky") as agent:
                lost = asks(agent)
                await settled()
                _ = 1 / 0
        other = asks(kernel.spawn("other"))
        await settled()
        core.finish()

        assert isinstance(await error_of(lost), SyscallCancelled)
        assert (await other).text == "done"


@virtual
async def test_an_agent_that_exited_makes_no_calls() -> None:
    async with booted(echo()) as kernel:
        agent = kernel.spawn("a")
        agent.exit()
        agent.exit()

        with pytest.raises(SyscallCancelled, match="exited"):
            await agent.llm.agenerate("hi")


@virtual
async def test_cancelling_an_await_cancels_the_call() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        call = asks(kernel.spawn("a"))
        await settled()
        call.cancel()
        await settled()

        assert not core.runs


def test_cancelling_an_await_on_another_loop_cancels_the_call(
    boot: Callable[..., Kernel],
) -> None:
    core = PuppetCore()
    agent = boot(core).spawn("a")

    async def give_up() -> None:
        call = asks(agent)
        await asyncio.to_thread(until, lambda: core.runs)
        call.cancel()
        await asyncio.wait([call])

    asyncio.run(give_up())

    until(lambda: not core.runs)


@virtual
async def test_freezing_parks_an_agent_and_thawing_lets_it_go_on() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = kernel.spawn("a")
        call = asks(agent)
        await settled()

        await kernel.afreeze(agent.pid)
        assert (agent.state, core.prompts) == (ProcessState.FROZEN, [])
        agent.thaw()
        core.finish()

        assert (await call).text == "done"
        kinds = [e.kind for e in kernel.journal.events(pid=agent.pid)]  # type: ignore[attr-defined]
        assert EventKind.AGENT_FROZEN in kinds
        assert EventKind.AGENT_THAWED in kinds


@virtual
async def test_a_frozen_agent_may_exit() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = kernel.spawn("a")
        call = asks(agent)
        await settled()
        await kernel.afreeze(agent.pid)

        agent.exit()

        assert isinstance(await error_of(call), SyscallCancelled)


def test_an_agent_is_frozen_from_a_plain_thread(boot: Callable[..., Kernel]) -> None:
    agent = boot(ScriptedCore("a b c d", token_s=0.002, preemptible=True)).spawn("a")
    call = in_thread(lambda: agent.llm.generate("hi").text)
    until(lambda: agent._process.live_calls)

    agent.freeze()
    assert not call.done()
    agent.thaw()

    assert call.result(PATIENCE) == "a b c d"


# --- limits ---------------------------------------------------------------------------------------


@virtual
async def test_an_agent_that_repeats_itself_is_stopped() -> None:
    config = KernelConfig(guard=Guard(max_repeats=3))
    async with booted(echo(), config=config) as kernel:
        agent = kernel.spawn("loop")
        for _ in range(3):
            await agent.llm.agenerate("again")

        with pytest.raises(RunawayStopped, match="same call 4 times"):
            await agent.llm.agenerate("again")
        assert (await agent.llm.agenerate("something else")).text == "something else"


@virtual
async def test_an_agent_that_calls_too_often_is_stopped() -> None:
    async with booted(echo(), config=KernelConfig(guard=Guard(max_calls=2))) as kernel:
        agent = kernel.spawn("busy")
        for n in range(2):
            await agent.llm.agenerate(str(n))

        with pytest.raises(RunawayStopped, match="max_calls"):
            await agent.llm.agenerate("2")


@virtual
async def test_too_deep_a_family_is_stopped() -> None:
    async with booted(echo(), config=KernelConfig(guard=Guard(max_depth=2))) as kernel:
        child = kernel.spawn("a").spawn("b")

        with pytest.raises(RunawayStopped, match="3 levels deep"):
            child.spawn("c")


@virtual
async def test_waiting_out_an_overload_is_not_running_away() -> None:
    config = KernelConfig(
        scheduler=SchedulerConfig(max_waiting=1), guard=Guard(max_repeats=3, max_calls=3)
    )
    core = PuppetCore()
    async with booted(core, config=config) as kernel:
        agent, patient = kernel.spawn("a"), kernel.spawn("patient")
        calls = [asks(agent, "1"), asks(agent, "2")]
        await settled()
        for _ in range(10):
            with pytest.raises(Overloaded):
                await patient.llm.agenerate("me too")
        core.finish()
        await settled()
        core.finish()
        await asyncio.wait(calls)
        last = asks(patient, "me too")
        await settled()
        core.finish()

        assert (await last).text == "done"


@virtual
async def test_eight_agents_of_a_group_say_hello_on_a_small_budget() -> None:
    config = KernelConfig(groups={"team": GroupConfig(budget=Budget(tokens=2_000))})
    core = ScriptedCore("hello to you", latency_s=1.0)
    async with booted(core, config=config) as kernel:
        agents = [kernel.spawn(f"a{i}", group="team") for i in range(8)]
        answers = await asyncio.gather(*(agent.llm.agenerate("hello") for agent in agents))

        assert [answer.text for answer in answers] == ["hello to you"] * 8
        assert kernel.processes.group("team").budget.spent.tokens == 8 * 4


@virtual
async def test_the_documented_budget_serves_all_agents_of_its_group() -> None:
    batch = GroupConfig(weight=0.5, budget=Budget(tokens=2_000_000, money=5.0))
    price = Price(input_per_million=0.1, output_per_million=0.4)
    config = KernelConfig(groups={"batch": batch}, prices={"scripted": price})
    core = ScriptedCore("hello to you", latency_s=1.0, slots=32)
    async with booted(core, config=config) as kernel:
        agents = [kernel.spawn(f"a{i}", group="batch") for i in range(64)]
        answers = await asyncio.gather(*(agent.llm.agenerate("hello") for agent in agents))

        assert len(answers) == 64
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.1), "32 at a time"


@virtual
async def test_a_group_shares_its_budget() -> None:
    config = KernelConfig(groups={"team": GroupConfig(budget=Budget(calls=2))})
    async with booted(echo(), config=config) as kernel:
        one, two = kernel.spawn("one", group="team"), kernel.spawn("two", group="team")
        await one.llm.agenerate("hi")
        await two.llm.agenerate("hi")

        with pytest.raises(BudgetExceeded, match="group 'team'"):
            await one.llm.agenerate("hi")
        assert (await kernel.spawn("free").llm.agenerate("hi")).text == "hi"


def test_an_unknown_policy_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(NoSuchObject, match=r"have .*'fair'"):
        Kernel(QUICK, cores=[echo()], policy="lottery")


@virtual
async def test_a_policy_of_a_stranger_is_used_as_it_is() -> None:
    class LastComeFirstServed(FIFO):
        def rank(self, call: object) -> tuple[float, ...]:
            return (-call.seq,)  # type: ignore[attr-defined]

    core = PuppetCore()
    async with booted(core, policy=LastComeFirstServed()) as kernel:
        agent = kernel.spawn("a")
        calls = [asks(agent, prompt) for prompt in ("first", "second", "third")]
        order = []
        for _ in calls:
            await settled()
            order += core.prompts
            core.finish()
        await asyncio.wait(calls)

        assert order == ["first", "third", "second"]
        assert "LastComeFirstServed" in repr(kernel)


@pytest.mark.parametrize("prompt", [[{"content": "x"}], [5], 5, [{"role": "user", "content": 5}]])
@virtual
async def test_a_malformed_prompt_fails_its_caller_before_it_counts(prompt: object) -> None:
    async with booted(echo()) as kernel:
        agent = kernel.spawn("a")

        with pytest.raises(InvalidRequest):
            await agent.llm.agenerate(prompt)  # type: ignore[arg-type]
        assert agent.accounting.num_calls == 0


# --- streams --------------------------------------------------------------------------------------


def test_a_stream_on_a_plain_thread(boot: Callable[..., Kernel]) -> None:
    agent = boot(ScriptedCore("one two three", token_s=0.001)).spawn("a")

    with agent.llm.stream("hi") as stream:
        texts = [delta.text for delta in stream]

    assert texts == ["one ", "two ", "three"]
    assert stream.completion.text == "one two three"


@virtual
async def test_a_stream_on_the_kernels_loop() -> None:
    async with booted(ScriptedCore("one two three", token_s=1.0)) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        texts = [delta.text async for delta in stream]

        assert texts == ["one ", "two ", "three"]
        assert stream.completion.text == "one two three"


def test_a_stream_on_another_loop(boot: Callable[..., Kernel]) -> None:
    agent = boot(ScriptedCore("one two three", token_s=0.001)).spawn("a")

    async def read() -> list[str]:
        return [delta.text async for delta in agent.llm.astream("hi")]

    assert asyncio.run(read()) == ["one ", "two ", "three"]


@pytest.mark.parametrize("leave", ["close", "with", "forget"])
def test_a_stream_that_is_left_early_frees_the_core(
    boot: Callable[..., Kernel], leave: str
) -> None:
    core = PuppetCore()
    agent = boot(core).spawn("a")
    stream = agent.llm.stream("hi")
    until(lambda: core.runs)
    core.progress(text="once")
    assert next(stream).text == "once"

    if leave == "close":
        stream.close()
    elif leave == "with":
        with stream:
            pass
    else:
        del stream

    until(lambda: not core.runs)


@pytest.mark.parametrize("leave", ["aclose", "forget", "cycle"])
@virtual
async def test_an_async_stream_that_is_left_early_frees_the_core(leave: str) -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        core.progress(text="once")
        assert (await anext(stream)).text == "once"

        if leave == "aclose":
            await stream.aclose()
        elif leave == "cycle":
            stream.me = stream  # type: ignore[attr-defined]
            del stream
            gc.collect()
        else:
            del stream
        await settled()

        assert not core.runs


@virtual
async def test_forgetting_a_stream_changes_nothing_before_the_loop_turns() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        del stream  # as a garbage collection in the middle of a decision would

        assert core.runs
        await settled()
        assert not core.runs


@virtual
async def test_a_refused_stream_raises_when_it_is_read() -> None:
    async with booted(echo()) as kernel:
        with pytest.raises(NoSuchObject):
            await anext(kernel.spawn("a").llm.astream("hi", model="nope"))


@virtual
async def test_a_core_that_dies_in_mid_stream_ends_the_stream_with_its_error() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        core.progress(text="once upon")
        core.die(CoreError("puppet", "power cut", is_retryable=True))

        heard = [(await anext(stream)).text]
        with pytest.raises(CoreError, match="power cut"):
            await anext(stream)
        assert heard == ["once upon"]


# --- observers ------------------------------------------------------------------------------------


@virtual
async def test_an_observer_that_raises_is_dropped_and_the_kernel_goes_on() -> None:
    seen: list[KernelEvent] = []

    def bad(event: KernelEvent) -> None:
        seen.append(event)
        raise RuntimeError("an observer's bug")

    async with booted(echo(), observers=[bad]) as kernel:
        assert (await kernel.spawn("a").llm.agenerate("hi")).text == "hi"

    assert len(seen) == 1


@virtual
async def test_an_observer_may_end_the_agent_that_it_is_told_of() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:

        def judge(event: KernelEvent) -> None:
            if event.kind is EventKind.SUBMITTED and event.pid is not None:
                kernel.exit(event.pid)

        kernel.subscribe(judge)
        call = asks(kernel.spawn("a"))

        assert isinstance(await error_of(call), SyscallCancelled)
        assert not core.history


def test_unsubscribing_ends_the_telling(boot: Callable[..., Kernel]) -> None:
    kernel, journal = boot(), EventLog()

    unsubscribe = kernel.subscribe(journal)
    kernel.spawn("a")
    unsubscribe()
    kernel.spawn("b")

    assert [event.facts["name"] for event in journal.events()] == ["a"]


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


# --- bad options ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"priority": "high"}, {"priority": 1.5}, {"timeout_s": "5"}, {"timeout_s": float("nan")}],
    ids=repr,
)
def test_a_bad_option_of_a_call_is_refused_by_name(options: dict[str, Any]) -> None:
    with Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel:
        agent = kernel.spawn("a")

        with pytest.raises(InvalidRequest, match=f"{next(iter(options))}: got"):
            agent.llm.generate("hello", **options)

        assert agent.llm.generate("hello").text == "hi"


@pytest.mark.parametrize(
    "settings",
    [{"priority": "x"}, {"weight": "2"}, {"weight": 0}, {"group": 5}, {"budget": 5}],
    ids=repr,
)
def test_a_bad_setting_of_an_agent_is_refused_by_name(settings: dict[str, Any]) -> None:
    with (
        Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel,
        pytest.raises(InvalidRequest, match=f"{next(iter(settings))}: got"),
    ):
        kernel.spawn("a", **settings)


def test_a_policy_that_raises_fails_the_caller_and_hangs_nobody() -> None:
    class Broken(FIFO):
        def rank(self, call: object) -> tuple[float, ...]:
            raise ZeroDivisionError(call)

    with Kernel(KernelConfig(drain_s=0), cores=[ScriptedCore("hi")], policy=Broken()) as kernel:
        agent = kernel.spawn("a")

        with pytest.raises(
            SchedulingPolicyError, match="'Broken': `rank` failed: ZeroDivisionError"
        ):
            agent.llm.generate("hello")

        kernel.check()


def test_a_prompt_is_measured_without_asking_a_model(boot: Callable[..., Kernel]) -> None:
    core = ScriptedCore("hi", context_window=10)
    agent = boot(core).spawn("a")

    size = agent.llm.measure("one two three")

    assert (size.num_tokens, size.num_left, size.is_exact) == (3, 7, True)
    assert agent.llm.measure("word " * 12).num_left == -2, "also of what does not fit"
    assert agent.accounting.num_calls == 0
    assert not core.requests


async def test_on_the_kernels_own_loop_a_prompt_is_measured_if_that_takes_no_waiting() -> None:
    async with Kernel(QUICK, cores=[echo()]) as kernel:
        agent = await kernel.aspawn("a")

        assert agent.llm.measure("one two").num_tokens == 2
        assert (await agent.llm.ameasure("one two")).num_tokens == 2
