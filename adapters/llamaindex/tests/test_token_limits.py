"""Memories that are limited by tokens keep about as much on a core that cannot count exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.utils import get_tokenizer
from llama_index.llms.aios import AIOSLLM

from aios_core import Kernel, KernelConfig
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores import OpenAICore
from aios_core.testing.stub_server import Answer, StubServer

TEXT = "What is the weather like in Oslo today, and shall I take an umbrella?"
LIMIT = 300
Tokenizer = Callable[[str], list[int]]


@pytest.fixture
def remote() -> Iterator[Kernel]:
    """Yield a kernel with one core, an endpoint that counts no tokens before a call."""
    config = KernelConfig(
        state=StateConfig(directory=":memory:"), access=AccessConfig(approver="allow")
    )
    with StubServer(Answer("ok"), models=["m"]) as server:
        core = OpenAICore(server.base_url, ["m"], api_key="k", context_window=8_000)
        kernel = Kernel(config, cores=[core]).start()
        yield kernel
        kernel.check()
        kernel.close(0)


def kept_by_buffer(tokenizer: Tokenizer) -> int:
    buffer = ChatMemoryBuffer.from_defaults(token_limit=LIMIT, tokenizer_fn=tokenizer)
    for _ in range(100):
        buffer.put(ChatMessage(role="user", content=TEXT))
    return len(buffer.get())


async def kept_by_memory(tokenizer: Tokenizer) -> int:
    memory = Memory.from_defaults(
        token_limit=LIMIT, chat_history_token_ratio=1.0, tokenizer_fn=tokenizer
    )
    try:
        for _ in range(100):
            await memory.aput(ChatMessage(role="user", content=TEXT))
        return len(await memory.aget())
    finally:
        # Its database would keep a thread, and the process with it.
        engine = memory.sql_store._async_engine
        if engine is not None:
            await engine.dispose()


def test_a_buffer_of_300_tokens_keeps_about_as_many_messages_as_natively(remote: Kernel) -> None:
    natively = kept_by_buffer(get_tokenizer())
    kept = kept_by_buffer(AIOSLLM(kernel=remote).tokenizer)

    assert natively > 10
    assert natively / 2 <= kept <= natively * 2


async def test_a_memory_of_300_tokens_keeps_about_as_many_messages_as_natively(
    remote: Kernel,
) -> None:
    natively = await kept_by_memory(get_tokenizer())
    kept = await kept_by_memory(AIOSLLM(kernel=remote).tokenizer)

    assert natively > 5
    assert natively / 2 <= kept <= natively * 2
