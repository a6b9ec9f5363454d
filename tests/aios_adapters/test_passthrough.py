"""Mode "passthrough": a caller calls its own provider while it holds a slot of the kernel."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from aios_adapters import (
    AgentDirectory,
    AgentSettings,
    Caller,
    apassthrough_call,
    passthrough_call,
    register_provider_model,
)
from aios_core import (
    Agent,
    Budget,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EventKind,
    InvalidRequest,
    Kernel,
    KernelConfig,
    Price,
    RunawayStopped,
    SyscallCancelled,
    Usage,
)
from aios_core.cores import ScriptedCore
from aios_core.process import RunawayGuard
from aios_core.testing import EventWatcher


class Refused(Exception):
    """A provider's own exception."""


@pytest.fixture
def watch() -> EventWatcher:
    return EventWatcher()


@pytest.fixture
def kernel(watch: EventWatcher) -> Iterator[Kernel]:
    config = KernelConfig(prices={"gpt": Price(1e6, 1e6)}, guard=RunawayGuard(max_repeats=3))
    with Kernel(config, cores=[ScriptedCore("hi")], observers=[watch]) as kernel:
        yield register_provider_model("gpt", kernel, slots=1)
        kernel.check()


async def for_ever() -> str:
    await asyncio.Event().wait()
    return "never"


# --- on an event loop ----------------------------------------------------------------------------


async def test_a_call_is_booked_with_what_the_provider_says(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agent = await kernel.aspawn("a")

    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        answer = await slot.run(asyncio.sleep(0, "yes"))
        slot.record_usage(Usage(5, 2), answer)

    assert answer == "yes"
    assert agent.accounting.usage == Usage(5, 2)
    spent = kernel.processes.get(agent.pid).budget.spent
    assert spent.money == pytest.approx(7.0), "at the price of the provider's model"
    assert watch.counts[EventKind.DONE] == 1


async def test_what_was_reserved_is_told_as_the_limit_for_the_provider(kernel: Kernel) -> None:
    free, poor = await kernel.aspawn("free"), await kernel.aspawn("poor", budget=Budget(tokens=300))

    async with apassthrough_call(free, "gpt", messages="hi") as slot:
        assert slot.token_limit is None
    async with apassthrough_call(free, "gpt", messages="hi", max_tokens=50) as slot:
        assert slot.token_limit == 50
    async with apassthrough_call(poor, "gpt", messages="hi") as slot:
        assert 250 < (slot.token_limit or 0) < 300
        assert slot.limiting({"n": 1}) == {"n": 1, "max_tokens": slot.token_limit}
        assert slot.limiting({"max_tokens": 7}) == {"max_tokens": 7}
        assert slot.limiting({}, own=7) == {}


async def limit_with(agent: Agent) -> int | None:
    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        return slot.token_limit


async def test_an_answer_that_could_exceed_the_budget_is_limited(kernel: Kernel) -> None:
    limits = {
        tokens: await limit_with(await kernel.aspawn("a", budget=Budget(tokens=tokens)))
        for tokens in (2_000, 5_000, 20_000, 200_000, 2_000_000)
    }

    assert 1_450 < (limits[2_000] or 0) < 1_500, "what is left, without another usual answer"
    assert limits[5_000] == limits[20_000] == 4_096
    assert 24_900 < (limits[200_000] or 0) <= 25_000, "an eighth of what is left"
    assert limits[2_000_000] is None, "no answer is so long that it exceeds the budget"


async def test_an_answer_leaves_half_of_a_shared_budget_to_others(kernel: Kernel) -> None:
    agent = await kernel.aspawn("parent", budget=Budget(tokens=2_000))
    child = await kernel.aspawn("child", parent=agent.pid)

    assert 950 < (await limit_with(child) or 0) <= 1_000
    assert 950 < (await limit_with(agent) or 0) <= 1_000


async def test_the_limit_grows_with_the_answers_of_a_model(kernel: Kernel) -> None:
    agent = await kernel.aspawn("writer", budget=Budget(tokens=100_000))
    for number in range(3):
        async with apassthrough_call(agent, "gpt", messages=f"write {number}") as slot:
            slot.record_usage(Usage(5, 4_096), "word " * 4_096)

    assert await limit_with(agent) == 4 * 4_096


async def test_an_agent_may_ask_again_while_it_reads_an_answer(kernel: Kernel) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=2_000))

    async with apassthrough_call(agent, "gpt", messages="hi"):
        answer = await agent.llm.agenerate("hello", model="scripted")

    assert answer.text == "hi"


async def test_who_makes_a_call_while_it_reads_a_providers_answer_does_not_wait_for_itself(
    kernel: Kernel,
) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=300))
    child = await kernel.aspawn("child", parent=agent.pid)

    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        with pytest.raises(BudgetExceeded) as refusal:
            await child.llm.agenerate("hello", model="scripted")
        slot.record_usage(Usage(5, 5))

    assert refusal.value.reserved == 300
    assert (await child.llm.agenerate("hello", model="scripted")).text == "hi"


async def test_what_a_provider_takes_beyond_the_budget_is_told_and_not_booked(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=300))

    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        slot.record_usage(Usage(5, 900), "word " * 900)

    assert agent.accounting.usage == Usage(5, 900), "what was taken was taken"
    assert kernel.processes.get(agent.pid).budget.spent.tokens == 300
    assert watch.counts[EventKind.OVERRUN] == 1


async def test_a_provider_that_was_asked_charges_the_prompt_of_a_call_that_was_cancelled(
    kernel: Kernel,
) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=300))

    asked = asyncio.Event()

    async def provider() -> None:
        asked.set()
        await for_ever()

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="word " * 20) as slot:
            await slot.run(provider())

    call = asyncio.ensure_future(ask())
    await asked.wait()
    call.cancel()
    await asyncio.wait([call])
    await kernel.aexit(agent.pid)
    await kernel.aspawn("another")  # what the core reported is handled by now

    assert 20 <= agent.accounting.usage.input_tokens <= 40
    assert agent.accounting.usage.is_estimated


async def test_calls_wait_for_a_slot_by_the_policy(kernel: Kernel, watch: EventWatcher) -> None:
    running: list[str] = []
    agents = [await kernel.aspawn(name) for name in "abc"]

    async def ask(name: str) -> None:
        async with apassthrough_call(agents["abc".index(name)], "gpt", messages="hi") as slot:
            running.append(name)
            assert len(running) == 1, "one slot, one call"
            await slot.run(asyncio.sleep(0.001))
            running.remove(name)

    await asyncio.gather(*map(ask, "abc"))

    assert watch.counts[EventKind.DONE] == 3


async def test_a_deadline_cancels_what_the_provider_is_asked(kernel: Kernel) -> None:
    agent = await kernel.aspawn("a")
    asked = asyncio.ensure_future(for_ever())

    with pytest.raises(DeadlineExceeded):
        async with apassthrough_call(agent, "gpt", messages="hi", timeout_s=0.05) as slot:
            await slot.run(asked)

    assert asked.cancelled()


async def test_the_end_of_its_agent_cancels_what_the_provider_is_asked(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agent = await kernel.aspawn("a")
    asked = asyncio.ensure_future(for_ever())

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            await slot.run(asked)

    call = asyncio.create_task(ask())
    await watch.async_wait(EventKind.DISPATCHED)
    agent.request_exit()

    with pytest.raises(SyscallCancelled, match="'a' exited"):
        await call
    assert asked.cancelled()


async def test_cancelling_the_caller_frees_the_slot(kernel: Kernel, watch: EventWatcher) -> None:
    agent, other = await kernel.aspawn("a"), await kernel.aspawn("b")

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            await slot.run(for_ever())

    call = asyncio.create_task(ask())
    await watch.async_wait(EventKind.DISPATCHED)

    call.cancel()
    await asyncio.wait([call])

    async with apassthrough_call(other, "gpt", messages="hi") as slot:
        assert await slot.run(asyncio.sleep(0, "free")) == "free"
    assert watch.counts[EventKind.CANCELLED] == 1


async def test_a_providers_exception_passes_as_it_is_and_the_call_has_failed(
    kernel: Kernel, watch: EventWatcher
) -> None:
    agent = await kernel.aspawn("a")

    async def refuse() -> None:
        raise Refused("429")

    with pytest.raises(Refused, match="429"):
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            await slot.run(refuse())

    await watch.async_wait(EventKind.FAILED)


async def numbers(closed: list[bool]) -> AsyncIterator[int]:
    try:
        for number in range(3):
            yield number
        await for_ever()
    finally:
        closed.append(True)


async def test_a_stream_passes_item_by_item_and_is_closed_when_the_slot_is_taken_back(
    kernel: Kernel,
) -> None:
    agent = await kernel.aspawn("a")
    seen: list[int] = []
    closed: list[bool] = []

    async def consume() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            async for number in slot.iterate(numbers(closed)):
                seen.append(number)
                if number == 2:
                    agent.request_exit()

    with pytest.raises(SyscallCancelled):
        await consume()

    assert (seen, closed) == ([0, 1, 2], [True])


async def test_what_holds_a_slot_is_no_generator_that_a_stopping_loop_would_close_too_soon(
    kernel: Kernel,
) -> None:
    begun: list[object] = []
    caller, hooks = Caller.named("a"), sys.get_asyncgen_hooks()
    items = numbers([])
    await anext(items)

    sys.set_asyncgen_hooks(firstiter=begun.append)
    try:
        async with (
            AgentDirectory().ause(kernel, caller, AgentSettings()) as agent,
            apassthrough_call(agent, "gpt", messages="hi") as slot,
        ):
            assert await anext(slot.iterate(items)) == 1
    finally:
        sys.set_asyncgen_hooks(*hooks)

    assert begun == []
    await items.aclose()


async def test_a_budget_refuses_before_the_provider_is_asked(kernel: Kernel) -> None:
    agent = await kernel.aspawn("a", budget=Budget(calls=1))
    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        slot.record_usage(Usage(1, 1))

    with pytest.raises(BudgetExceeded):
        async with apassthrough_call(agent, "gpt", messages="ho"):
            pytest.fail("it was let in")


async def test_a_call_that_is_repeated_looks_repeated(kernel: Kernel) -> None:
    agent = await kernel.aspawn("a")

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi"):
            pass

    for _ in range(3):
        await ask()
    with pytest.raises(RunawayStopped):
        await ask()


# --- on a thread ---------------------------------------------------------------------------------


def test_a_blocking_call_holds_a_slot_and_is_booked(kernel: Kernel, watch: EventWatcher) -> None:
    agent = kernel.spawn("a")

    with passthrough_call(agent, "gpt", messages="hi") as slot:
        slot.record_usage(Usage(5, 2), "yes")

    assert agent.accounting.usage == Usage(5, 2)
    assert watch.counts[EventKind.DONE] == 1


def test_a_blocking_call_that_was_taken_back_says_why_in_the_end(kernel: Kernel) -> None:
    agent = kernel.spawn("a")

    def ask() -> None:
        with passthrough_call(agent, "gpt", messages="hi") as slot:
            agent.exit()
            slot.record_usage(Usage(5, 2), "too late")

    with pytest.raises(SyscallCancelled):
        ask()


def test_a_blocking_calls_exception_passes_as_it_is(kernel: Kernel, watch: EventWatcher) -> None:
    with pytest.raises(Refused), passthrough_call(kernel.spawn("a"), "gpt", messages="hi"):
        raise Refused

    watch.wait(EventKind.FAILED)


# --- cores ---------------------------------------------------------------------------------------


def test_a_model_of_a_provider_answers_nobody_by_itself(kernel: Kernel) -> None:
    with pytest.raises(InvalidRequest, match="passthrough"):
        kernel.spawn("a").llm.generate("hi", model="gpt@provider")


def test_threads_that_admit_a_model_first_share_its_slots(kernel: Kernel) -> None:
    threads = [
        threading.Thread(target=register_provider_model, args=("other", kernel)) for _ in "1234"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [core.name for core in kernel.pool].count("other@provider") == 1
    kernel.check()


def test_a_core_that_is_added_serves_and_its_name_stays_its_own(kernel: Kernel) -> None:
    kernel.add_core(ScriptedCore("from the other", name="other", models=["m"]))

    assert kernel.spawn("a").llm.generate("hi", model="m").text == "from the other"
    with pytest.raises(ConfigError):
        kernel.add_core(ScriptedCore("x", name="other"))


def test_a_program_that_only_admits_loads_no_model() -> None:
    program = """
import sys
from aios_adapters import register_provider_model, passthrough_call
with passthrough_call(register_provider_model("gpt").spawn("a"), "gpt", messages="hi"):
    print("let in", "torch" in sys.modules)
"""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("let in False\n", "")
