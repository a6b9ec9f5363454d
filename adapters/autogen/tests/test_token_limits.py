"""Buffers that are limited by tokens keep about as much on a core that cannot count exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from autogen_core.model_context import TokenLimitedChatCompletionContext
from autogen_core.models import UserMessage

from aios_core import Kernel, KernelConfig
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores import OpenAICore
from aios_core.testing.stub_server import Answer, StubServer
from autogen_aios import AIOSChatCompletionClient

TEXT = "What is the weather like in Oslo today, and shall I take an umbrella?"
NATIVE = 15 + 3  # tokens of that message as OpenAI's tokenizer counts them, roles included


@pytest.fixture
def remote() -> Iterator[Kernel]:
    """A kernel whose core is an endpoint that counts nothing beforehand."""
    config = KernelConfig(
        state=StateConfig(directory=":memory:"), access=AccessConfig(approver="allow")
    )
    with StubServer(Answer("ok"), models=["m"]) as server:
        core = OpenAICore(server.base_url, ["m"], api_key="k", context_window=8_000)
        kernel = Kernel(config, cores=[core]).start()
        yield kernel
        kernel.check()
        kernel.close(0)


async def test_a_buffer_of_300_tokens_keeps_about_as_many_messages_as_natively(
    remote: Kernel,
) -> None:
    client = AIOSChatCompletionClient(kernel=remote)
    context = TokenLimitedChatCompletionContext(client, token_limit=300)
    for _ in range(100):
        await context.add_message(UserMessage(content=TEXT, source="user"))

    kept = len(await context.get_messages())

    natively = 300 // NATIVE
    assert natively / 2 <= kept <= natively * 2


def test_what_is_left_is_the_window_without_the_prompt(remote: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=remote)
    messages = [UserMessage(content=TEXT, source="user")]

    used = client.count_tokens(messages)

    assert NATIVE / 2 <= used <= NATIVE * 2
    assert client.remaining_tokens(messages) == 8_000 - used
