"""The size of a context: exact after an answer, estimated before, and never a whole window."""

from __future__ import annotations

from aios_core.messages import Message, Usage
from aios_core.scheduler.allowance import Estimates
from aios_core.scheduler.context_sizes import ContextSizes, PromptEstimate
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import TokenRatio

WINDOW = 4_096


def request(*texts: str, system: str = "") -> LLMGenerate:
    said = [Message("user", text) for text in texts]
    return LLMGenerate((*([Message("system", system)] if system else []), *said))


def estimate(ratio: TokenRatio, asked: LLMGenerate) -> PromptEstimate:
    return PromptEstimate(ratio.prompt_tokens(asked), asked, ratio)


def test_a_prompt_is_exact_as_far_as_the_last_answer_has_shown() -> None:
    sizes, ratio = ContextSizes(), TokenRatio()
    first = estimate(ratio, request("x" * 4_000))
    assert sizes.prompt_tokens(1, "m", first) > 1_000, "at first rather too much"

    ratio.learn(4_000, 1_600)
    sizes.learn(1, "m", first, Usage(1_600, 20))

    assert sizes.known(1) == 1_620
    assert sizes.prompt_tokens(1, "m", first) == 1_600
    longer = estimate(ratio, request("x" * 4_000, "y" * 400))
    assert 1_600 + 150 < sizes.prompt_tokens(1, "m", longer) < 1_600 + 180


def test_a_waiting_prompt_is_sized_by_what_was_learned_since() -> None:
    sizes, ratio = ContextSizes(), TokenRatio()
    waiting = estimate(ratio, request("x" * 6_000))
    before = sizes.prompt_tokens(2, "m", waiting)

    ratio.learn(6_000, 1_000)

    assert before > 1_900
    assert sizes.prompt_tokens(2, "m", waiting) < 1_050


def test_a_conversation_that_was_cut_is_in_proportion() -> None:
    sizes, ratio = ContextSizes(), TokenRatio()
    ratio.learn(4_000, 1_000)
    whole = estimate(ratio, request("x" * 8_000))
    sizes.learn(1, "m", whole, Usage(2_400, 10))

    half = sizes.prompt_tokens(1, "m", estimate(ratio, request("x" * 4_000)))

    assert 1_150 < half < 1_250


def test_another_model_s_count_says_nothing() -> None:
    sizes, ratio = ContextSizes(), TokenRatio()
    ratio.learn(4_000, 1_000)
    prompt = estimate(ratio, request("x" * 4_000))
    sizes.learn(1, "m", prompt, Usage(3_000, 10))

    assert sizes.prompt_tokens(1, "other", prompt) < 1_100


def test_an_answer_without_a_limit_counts_with_its_usual_length() -> None:
    sizes, estimates = ContextSizes(), Estimates()
    prompt = PromptEstimate(100)

    def size(max_tokens: int = WINDOW) -> int:
        def expect(*, at_most_unknown: int | None = None) -> int:
            return estimates.answer_tokens(1, "m", at_most_unknown=at_most_unknown)

        return sizes.context(
            1, "m", prompt, max_tokens=max_tokens, expect_answer=expect, kv_capacity=WINDOW
        ).num_tokens

    assert size() <= 100 + WINDOW // 64, "unknown: a small share of the memory"
    for _ in range(10):
        estimates.learn(1, "m", 200)
    assert size() == 300
    assert size(max_tokens=8) == 108
    assert size(max_tokens=3_000) == 300


def test_a_system_prompt_is_shared_by_the_agents_that_have_it() -> None:
    sizes, ratio = ContextSizes(), TokenRatio()
    rules = "be brief and polite " * 40

    one = sizes.prefix(estimate(ratio, request("a", system=rules)))
    two = sizes.prefix(estimate(ratio, request("something else", system=rules)))
    other = sizes.prefix(estimate(ratio, request("a", system=rules + "!")))

    assert one is two is not None
    assert one != other
    assert 180 < one.num_tokens < 280
    assert sizes.prefix(estimate(ratio, request("no system prompt"))) is None
    assert sizes.prefix(estimate(ratio, request("a", system="short"))) is None


def test_nothing_stays_of_an_agent_that_exited() -> None:
    sizes = ContextSizes()
    sizes.learn(1, "m", PromptEstimate(10), Usage(10, 1))

    sizes.forget(1)

    assert sizes.known(1) is None
    assert sizes.num_answers(1) == 0
