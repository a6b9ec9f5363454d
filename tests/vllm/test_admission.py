"""Agents that do not all fit a real vLLM server's memory, directly and through the kernel."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import openai
import pytest

from aios_core import Kernel, KernelConfig
from aios_core.config import StateConfig
from aios_core.cores.openai.core import OpenAICore
from aios_core.process import RunawayGuard

from .conftest import VLLMServer, serve

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

WORDS = ("what", "is", "the", "sum", "of", "these", "numbers", "which", "do", "you", "like", "best")

Conversation = list[dict[str, str]]
Ask = Callable[[int, Conversation], Awaitable[str]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """A server with KV memory for 2,048 tokens, which returns cached tokens."""
    blocks = ("--block-size", "32", "--num-gpu-blocks-override", "65")
    limit = ("--override-generation-config", '{"max_new_tokens": 24}')
    more = (*blocks, *limit, "--enable-prompt-tokens-details")
    yield from serve(tmp_path_factory.mktemp("small"), more)


async def work(ask: Ask, seed: int, num_agents: int, num_turns: int, num_words: int) -> None:
    """Let agents hold conversations that grow by each turn, with short pauses."""

    async def agent(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        said: Conversation = []
        for _ in range(num_turns):
            said.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=num_words))})
            said.append({"role": "assistant", "content": await ask(number, said) or "ok"})
            await asyncio.sleep(rng.uniform(0, 0.2))  # its tool

    await asyncio.gather(*map(agent, range(num_agents)))


async def directly(server: VLLMServer, seed: int, *sizes: int) -> None:
    """Let the agents call the server without a kernel."""
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)

    async def ask(_number: int, said: Conversation) -> str:
        answer = await client.chat.completions.create(
            model="tiny",
            messages=said,  # type: ignore[arg-type]
            temperature=0,
            extra_body={"ignore_eos": True},
        )
        return answer.choices[0].message.content or ""

    async with client:
        await work(ask, seed, *sizes)


async def through_kernel(server: VLLMServer, seed: int, *sizes: int) -> None:
    """Let the agents call the server through a kernel, without a token limit."""
    core = OpenAICore(server.base_url, ["tiny"])
    guard = RunawayGuard(max_repeats=None, max_calls=None)
    config = KernelConfig(state=StateConfig(directory=":memory:"), guard=guard)
    async with Kernel(config, cores=[core]) as kernel:
        agents = [await kernel.aspawn(f"agent {number}") for number in range(sizes[0])]

        async def ask(number: int, said: Conversation) -> str:
            extra = {"ignore_eos": True}
            answer = await agents[number].llm.agenerate(said, temperature=0, extra=extra)
            return answer.text

        await work(ask, seed, *sizes)


async def computed(server: VLLMServer, doing: Awaitable[None]) -> float:
    """Return the prompt tokens that the server computes meanwhile, without cached ones."""

    def now() -> float:
        queries = server.metric("vllm:prefix_cache_queries_total")
        return queries - server.metric("vllm:prefix_cache_hits_total")

    before = await asyncio.to_thread(now)
    await doing
    return await asyncio.to_thread(now) - before


async def test_less_is_computed_than_directly_when_memory_is_short(small: VLLMServer) -> None:
    sizes = (10, 6, 80)

    alone = await computed(small, directly(small, 1, *sizes))
    kernel = await computed(small, through_kernel(small, 2, *sizes))

    assert kernel <= 0.6 * alone
