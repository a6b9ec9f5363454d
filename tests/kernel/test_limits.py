"""Limits on agents and their groups, and options that are refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aios_core import (
    Budget,
    BudgetExceeded,
    InvalidRequest,
    Kernel,
    KernelConfig,
    NoSuchObject,
    Overloaded,
    Price,
    RunawayStopped,
    SchedulingPolicyError,
)
from aios_core.config import GroupConfig, SchedulerConfig
from aios_core.cores import ScriptedCore
from aios_core.process import RunawayGuard
from aios_core.scheduler import FIFO
from tests.puppet import PuppetCore, asks, booted, settled, virtual

from .rig import QUICK, echo

# --- limits ---------------------------------------------------------------------------------------


@virtual
async def test_an_agent_that_repeats_itself_is_stopped() -> None:
    config = KernelConfig(guard=RunawayGuard(max_repeats=3))
    async with booted(echo(), config=config) as kernel:
        agent = kernel.spawn("loop")
        for _ in range(3):
            await agent.llm.agenerate("again")

        with pytest.raises(RunawayStopped, match="same call 4 times"):
            await agent.llm.agenerate("again")
        assert (await agent.llm.agenerate("something else")).text == "something else"


@virtual
async def test_an_agent_that_calls_too_often_is_stopped() -> None:
    async with booted(echo(), config=KernelConfig(guard=RunawayGuard(max_calls=2))) as kernel:
        agent = kernel.spawn("busy")
        for n in range(2):
            await agent.llm.agenerate(str(n))

        with pytest.raises(RunawayStopped, match="max_calls"):
            await agent.llm.agenerate("2")


@virtual
async def test_too_deep_a_family_is_stopped() -> None:
    async with booted(echo(), config=KernelConfig(guard=RunawayGuard(max_depth=2))) as kernel:
        child = kernel.spawn("a").spawn("b")

        with pytest.raises(RunawayStopped, match="3 levels deep"):
            child.spawn("c")


@virtual
async def test_waiting_out_an_overload_is_not_running_away() -> None:
    config = KernelConfig(
        scheduler=SchedulerConfig(max_waiting=1), guard=RunawayGuard(max_repeats=3, max_calls=3)
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
