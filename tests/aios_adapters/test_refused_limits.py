"""A budget's limit that a provider refuses is left out, at once and in later calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from aios_adapters import apassthrough_call, passthrough_call, register_provider_model
from aios_core import Budget, Kernel, KernelConfig
from aios_core.cores import ScriptedCore


class Refused(Exception):
    """A provider's refusal for another reason."""


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel:
        yield register_provider_model("gpt", kernel, slots=1)
        kernel.check()


class TooLong(Exception):
    """A provider's refusal of a limit."""

    status_code = 400


async def test_a_budgets_limit_that_a_provider_refuses_is_not_sent_again(kernel: Kernel) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=5_000))

    async def ask() -> None:
        async with apassthrough_call(agent, "gpt", messages="hi") as slot:
            assert slot.limiting({}) == {"max_tokens": 4_096}
            raise TooLong("max_tokens is too large: this model supports at most 2048")

    with pytest.raises(TooLong):
        await ask()

    async with apassthrough_call(agent, "gpt", messages="hi again") as slot:
        assert slot.limiting({}) == {}


REFUSAL = "max_tokens is too large: this model supports at most 2048"


async def test_a_call_is_made_once_more_without_a_budgets_limit_that_the_provider_refuses(
    kernel: Kernel,
) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=5_000))
    asked: list[dict[str, int]] = []

    async with apassthrough_call(agent, "gpt", messages="hi") as slot:

        async def answer() -> str:
            asked.append(slot.limiting({}))
            if asked[-1]:
                raise TooLong(REFUSAL)
            return "well"

        async def stream() -> AsyncIterator[str]:
            yield await answer()

        assert await slot.aattempt(answer) == "well"
        assert asked == [{"max_tokens": 4_096}, {}]
        assert [item async for item in slot.iterate(stream(), stream)] == ["well"]

    assert asked == [{"max_tokens": 4_096}, {}, {}]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_blocking_call_is_made_once_more_too(kernel: Kernel, is_streamed: bool) -> None:
    agent = kernel.spawn("a", budget=Budget(tokens=5_000))
    asked: list[dict[str, int]] = []

    with passthrough_call(agent, "gpt", messages="hi") as slot:

        def answer() -> str:
            asked.append(slot.limiting({}))
            if asked[-1]:
                raise TooLong(REFUSAL)
            return "well"

        def stream() -> Iterator[str]:
            yield answer()

        got = "".join(slot.steps(stream)) if is_streamed else slot.attempt(answer)

    assert (got, asked) == ("well", [{"max_tokens": 4_096}, {}])


async def test_a_stream_is_begun_again_before_its_first_item_only(kernel: Kernel) -> None:
    agent = await kernel.aspawn("a", budget=Budget(tokens=5_000))

    async def stream() -> AsyncIterator[str]:
        slot.limiting({})
        yield "one"
        raise TooLong(REFUSAL)

    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        items = slot.iterate(stream(), stream)
        assert await anext(items) == "one"
        with pytest.raises(TooLong):
            await anext(items)


def test_another_error_is_raised_at_once(kernel: Kernel) -> None:
    agent = kernel.spawn("a", budget=Budget(tokens=5_000))
    asked: list[dict[str, int]] = []

    def refuse() -> None:
        asked.append(slot.limiting({}))
        raise Refused("429")

    with pytest.raises(Refused), passthrough_call(agent, "gpt", messages="hi") as slot:
        slot.attempt(refuse)

    assert len(asked) == 1
