"""Several answers to one prompt, from cores that give one at a time."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from aios_core import Budget, BudgetExceeded, CoreError, Delta, SyscallCancelled
from aios_core.cores import ScriptedCore
from tests.puppet import booted, settled, virtual


@virtual
async def test_several_answers_are_the_choices_of_one() -> None:
    core = ScriptedCore(["one", "two words", "three"])
    async with booted(core) as kernel:
        answer = await kernel.spawn("a").llm.agenerate("hi", n=3, seed=7)

    assert [choice.message.content for choice in answer.all_choices] == [
        "one",
        "two words",
        "three",
    ]
    assert answer.usage.output_tokens == 4, "all of them count"
    assert [request.sampling.seed for request in core.requests] == [7, 8, 9]


@virtual
async def test_a_stream_tells_which_answer_a_delta_belongs_to() -> None:
    said: dict[int, str] = defaultdict(str)
    async with booted(ScriptedCore(["one more", "two"], token_s=0.1)) as kernel:
        stream = kernel.spawn("a").llm.astream("hi", n=2)
        async for delta in stream:
            assert isinstance(delta, Delta)
            said[delta.choice] += delta.text

    assert said == {0: "one more", 1: "two"}
    assert len(stream.completion.choices) == 1


@virtual
async def test_each_answer_counts_against_the_budget() -> None:
    async with booted(ScriptedCore("ok")) as kernel:
        agent = kernel.spawn("a", budget=Budget(calls=2))

        with pytest.raises(BudgetExceeded):
            await agent.llm.agenerate("hi", n=3)


@virtual
async def test_one_that_fails_fails_them_all_and_ends_the_others() -> None:
    answers = ["fine", CoreError("scripted", "broken"), "fine"]
    async with booted(ScriptedCore(answers, token_s=1.0)) as kernel:
        with pytest.raises(CoreError, match="broken"):
            await kernel.spawn("a").llm.agenerate("hi", n=3)
        await settled()

        assert kernel.num_in_flight == 0


@virtual
async def test_whoever_gives_up_on_several_answers_frees_every_slot() -> None:
    core = ScriptedCore("never heard", latency_s=60.0)
    async with booted(core) as kernel:
        call = asyncio.ensure_future(kernel.spawn("a").llm.agenerate("hi", n=3))
        await settled()
        assert core.load().num_running == 3
        call.cancel()
        with pytest.raises((asyncio.CancelledError, SyscallCancelled)):
            await call
        await settled()

        assert kernel.num_in_flight == 0
