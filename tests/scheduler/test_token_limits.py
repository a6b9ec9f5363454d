"""Token limits are enforced on every core, and reported usage is checked."""

from __future__ import annotations

import pytest

from aios_core import Budget, EventKind, FinishReason
from aios_core.core import Progress, Stopped
from aios_core.messages import Delta, ToolCallDelta, Usage
from tests.puppet import settled, virtual

from .rig import BlurredCore, Rig, answer, facts, rigged


def kinds(rig: Rig) -> list[EventKind]:
    return [event.kind for event in rig.journal.events()]


# --- enforcement ----------------------------------------------------------------------------------


@virtual
async def test_a_core_that_ignores_the_callers_limit_is_stopped_there() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent(), "word", max_tokens=50)
        assert core.history[0].token_limit == 50
        for _ in range(60):
            if core.runs:
                core.progress(text="w ")
                await settled()

        assert caller.completion is not None
        assert caller.completion.finish_reason is FinishReason.LENGTH
        assert caller.completion.length_reason == "max_tokens"
        assert caller.completion.usage.output_tokens == 50
        assert caller.text == "w " * 50
        assert core.asked_to_cancel == [syscall.id]


@virtual
async def test_a_cut_answer_is_booked_once_and_before_its_caller_has_it() -> None:
    core = BlurredCore(obeys=False)  # it releases a run late
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=300))
        syscall, caller = rig.submit(agent, "word")
        core.progress(num_tokens=400, text="w " * 400)
        await settled()

        assert caller.completion is not None
        cost = caller.completion.usage.total_tokens
        assert agent.accounting.usage == caller.completion.usage
        assert (agent.budget.spent.tokens, agent.budget.reserved.tokens) == (cost, 0)
        del core.runs[syscall.id]
        core.tell(Stopped(syscall.id, Usage(5, 400)))
        await settled()
        assert agent.accounting.usage == caller.completion.usage
        assert (agent.budget.spent.tokens, agent.budget.reserved.tokens) == (cost, 0)


@virtual
async def test_nothing_is_limited_where_nobody_set_a_limit() -> None:
    core = BlurredCore(window=100)
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent(), "word")
        core.progress(num_tokens=500, text="w " * 500)
        core.finish(text="w " * 500)
        await settled()

        assert core.history[0].token_limit is None
        assert caller.completion is not None
        assert caller.completion.length_reason is None
        assert caller.text == "w " * 500


@pytest.mark.parametrize(
    ("delta", "kept"),
    [
        (Delta("w " * 3_000), 50),
        (Delta("x" * 30_000), 50),
        (Delta(tool_calls=(ToolCallDelta(0, "c", "add", "1, " * 9_000),)), 50),
    ],
    ids=["words", "bytes", "tool call"],
)
@virtual
async def test_many_tokens_in_one_piece_are_cut_at_the_limit(delta: Delta, kept: int) -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=10_000))
        _, caller = rig.submit(agent, "word", max_tokens=50)
        core.tell(Progress(next(iter(core.runs)), 1, delta))
        await settled()

        assert caller.completion is not None
        message = caller.completion.message
        assert 0 < len(message.content) + sum(len(c.arguments) for c in message.tool_calls) <= 202
        assert caller.completion.usage.output_tokens == kept
        assert agent.budget.spent.tokens <= 60


@pytest.mark.parametrize("usage", [Usage(), Usage(1, 3_000), Usage(1, 20)], ids=repr)
@virtual
async def test_an_answer_that_comes_whole_is_cut_at_the_limit(usage: Usage) -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=10_000))
        _, caller = rig.submit(agent, "word", max_tokens=50)
        answer(core, "w " * 3_000, usage)
        await settled()

        assert caller.completion is not None
        assert caller.completion.length_reason == "max_tokens"
        assert caller.text == "w " * 50
        assert agent.budget.spent.tokens <= 60
        assert EventKind.CUT in kinds(rig)


@virtual
async def test_an_answer_within_its_limit_is_not_touched() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent(budget=Budget(tokens=1_000)), "word", max_tokens=50)
        for _ in range(50):
            core.progress(text="internationalisation ")
        answer(core, "internationalisation " * 50, Usage(5, 50))
        await settled()

        assert caller.completion is not None
        assert caller.completion.finish_reason is FinishReason.STOP
        assert caller.completion.usage == Usage(5, 50)
        assert {EventKind.CUT, EventKind.CLAIM_REJECTED} & set(kinds(rig)) == set()


# --- claims ---------------------------------------------------------------------------------------


@virtual
async def test_a_backend_without_usage_is_booked_by_a_count_and_said_to_be() -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=5_000))
        for _ in range(3):
            rig.submit(agent, "one two three four")
            for _ in range(60):
                core.progress(text="word ")
            answer(core, "word " * 60, Usage())
            await settled()

        assert agent.budget.spent.tokens == 3 * (8 + 60), "and not what bounds the prompt"
        assert agent.accounting.usage.is_estimated
        assert all(fact["is_estimated"] for fact in facts(rig, EventKind.DONE))


@virtual
async def test_the_estimate_of_a_prompt_follows_what_the_model_reported_before() -> None:
    core = BlurredCore(slots=8)
    prompt = "word " * 100
    async with rigged(core) as rig:
        agent = rig.agent()
        rig.submit(agent, prompt)
        answer(core, "a", Usage(104, 1))
        await settled()
        syscall, _ = rig.submit(agent, prompt)
        answer(core, "a", Usage())
        await settled()

        assert syscall.usage == Usage(104, 1, is_estimated=True)


@pytest.mark.parametrize("usage", [Usage(-5, 3), Usage(10**9, 3), Usage(5, 1), Usage(5, 3, 99)])
@virtual
async def test_figures_that_cannot_be_are_not_booked_and_an_event_says_so(usage: Usage) -> None:
    core = BlurredCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent(), "word")
        for _ in range(3):
            core.progress(text="w ")
        answer(core, "w w w ", usage)
        await settled()

        assert 1 <= syscall.usage.input_tokens <= 5
        assert (syscall.usage.output_tokens, syscall.usage.cached_tokens) == (3, 0)
        assert caller.completion is not None
        assert caller.completion.usage == syscall.usage
        assert "claimed" in facts(rig, EventKind.CLAIM_REJECTED)[0]["reason"]


@virtual
async def test_a_prompt_that_was_sent_costs_what_it_was_even_if_nothing_came_back() -> None:
    core = BlurredCore(obeys=False)
    async with rigged(core) as rig:
        agent = rig.agent(budget=Budget(tokens=500))
        syscall, _ = rig.submit(agent, "one two three four")
        rig.dispatcher.cancel(syscall.id)
        del core.runs[syscall.id]
        core.tell(Stopped(syscall.id, Usage(116, 0, is_estimated=True)))
        await settled()

        assert syscall.usage == Usage(8, 0, is_estimated=True)
        assert agent.budget.spent.tokens == 8
