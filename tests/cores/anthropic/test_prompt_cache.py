"""The prompt cache of the Anthropic core, its price, and the counting of prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.budget import Price
from aios_core.messages import (
    Message,
    Usage,
)
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer

from .rig import ADD, CALL, ask, connected, core_of

Serve = Callable[..., AnthropicStubServer]


async def test_the_second_call_of_an_agent_reads_its_prefix_from_the_cache(serve: Serve) -> None:
    server = serve([Answer("", (CALL,)), Answer("Three it is.")])
    start = [Message("system", "You add numbers."), Message("user", "What is 1 + 2 ?")]
    async with connected(server) as rig:
        first = await rig.generate(ask(start, tools=(ADD,)))
        more = [*start, first.message, Message("tool", "3", tool_call_id=CALL.id)]
        second = await rig.generate(ask(more, tools=(ADD,)))

    assert (first.usage.cached_tokens, first.usage.cache_write_tokens) == (0, 13)
    assert second.usage.cached_tokens == 13
    assert second.usage.input_tokens == 13 + second.usage.cache_write_tokens


async def test_a_single_question_is_not_written_to_the_cache(serve: Serve) -> None:
    server = serve()
    async with connected(server) as rig:
        completion = await rig.generate(ask())

    assert completion.usage == Usage(2, 17)
    assert "cache_control" not in str(server.exchanges[0].body)


@pytest.mark.parametrize(
    ("option", "mark"),
    [("off", None), ("5m", {"type": "ephemeral"}), ("1h", {"type": "ephemeral", "ttl": "1h"})],
)
async def test_the_option_sets_how_long_the_cache_lasts(
    serve: Serve, option: str, mark: dict[str, str] | None
) -> None:
    server = serve()
    async with connected(server, prompt_cache=option) as rig:
        await rig.generate(ask([Message("system", "be good"), Message("user", "hi")]))

    assert server.exchanges[0].body["system"][0].get("cache_control") == mark


async def test_breakpoints_of_the_caller_replace_those_of_the_kernel(serve: Serve) -> None:
    server = serve()
    mark = {"type": "ephemeral"}
    part = {"type": "text", "text": "hello", "cache_control": mark}
    async with connected(server) as rig:
        await rig.generate(
            ask([Message("system", "be good"), Message("user", parts=(part,))], tools=(ADD,))
        )
    body = server.exchanges[0].body

    assert str(body).count("cache_control") == 1
    assert body["messages"][0]["content"] == [part]


def test_an_agent_pays_less_for_what_the_provider_had_cached(serve: Serve) -> None:
    server = serve([Answer("", (CALL,)), Answer("Three.")])
    price = Price(10.0, 0.0, cached_input_per_million=1.0, cache_write_per_million=12.5)
    config = KernelConfig(prices={"stub": price})
    with Kernel(config, cores=[core_of(server)]) as kernel:
        agent = kernel.spawn("a")
        start = [Message("system", "You add numbers."), Message("user", "What is 1 + 2 ?")]
        first = agent.llm.generate(start, tools=[ADD])
        more = [*start, first.message, Message("tool", "3", tool_call_id=CALL.id)]
        second = agent.llm.generate(more, tools=[ADD])
        money = agent.accounting.money

    written = first.usage.cache_write_tokens + second.usage.cache_write_tokens
    assert money == pytest.approx((13 * 1.0 + written * 12.5) / 1e6)


# --- counting -------------------------------------------------------------------------------------


async def test_a_prompt_is_counted_at_the_endpoint_once(serve: Serve) -> None:
    server = serve()
    async with connected(server) as rig:
        core: Any = rig.core
        request = ask([Message("system", "be good"), Message("user", "one two three")])
        assert [await core.count_prompt(request) for _ in range(2)] == [5, 5]

    assert server.num_counted == 1
