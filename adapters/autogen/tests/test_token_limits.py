"""Buffers that are limited by tokens keep about as much on a core that cannot count exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiktoken
from autogen import token_count_utils
from autogen.agentchat.contrib.capabilities import transforms
from autogen.agentchat.contrib.capabilities.transforms import MessageTokenLimiter
from autogen_core.model_context import TokenLimitedChatCompletionContext
from autogen_core.models import UserMessage

from aios_core import Kernel, KernelConfig, install, set_default_kernel, uninstall
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores import OpenAICore
from aios_core.testing.stub_server import Answer, StubServer
from autogen_aios import AIOSChatCompletionClient

TEXT = "What is the weather like in Oslo today, and shall I take an umbrella?"
NATIVE = 15 + 3  # tokens of that message as OpenAI's tokenizer counts them, roles included


@pytest.fixture
def remote() -> Iterator[Kernel]:
    """A kernel with one endpoint, which does not count prompts, as its core."""
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


# --- classic AutoGen, which counts with tiktoken --------------------------------------------------


@pytest.fixture
def without_tiktoken(remote: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let classic count on that kernel; tiktoken has no encoding and may load none."""

    def download(*_: object) -> None:
        raise AssertionError("tiktoken would download an encoding")

    monkeypatch.setattr(tiktoken, "encoding_for_model", download)
    monkeypatch.setattr(tiktoken, "get_encoding", download)
    former = set_default_kernel(remote)
    install("autogen_classic")
    yield
    uninstall()
    set_default_kernel(former)


@pytest.mark.usefixtures("without_tiktoken")
def test_classic_counts_texts_and_messages_on_the_kernel() -> None:
    text = token_count_utils.count_token(TEXT)
    message = token_count_utils.count_token([{"role": "user", "content": TEXT}], model="gpt-4")
    tool = {"name": "add", "description": TEXT, "parameters": {"properties": {}}}

    assert NATIVE / 2 <= text <= NATIVE * 2
    assert text < message <= text + 12
    assert token_count_utils.num_tokens_from_functions([tool]) > text
    assert token_count_utils.count_token("") == 0


@pytest.mark.usefixtures("without_tiktoken")
def test_classics_limiter_of_300_tokens_keeps_about_as_many_messages_as_natively() -> None:
    limiter = MessageTokenLimiter(max_tokens=300, max_tokens_per_message=100, model="m")
    messages = [{"role": "user", "content": TEXT} for _ in range(100)]

    kept = limiter.apply_transform(messages)

    natively = (300 - 100) // 15
    assert natively / 2 <= len(kept) <= natively * 2
    assert kept[-1]["content"] == TEXT


@pytest.mark.usefixtures("without_tiktoken")
def test_classics_limiter_cuts_a_long_message_at_its_beginning() -> None:
    limiter = MessageTokenLimiter(max_tokens=1_000, max_tokens_per_message=40, model="m")
    long = " ".join([TEXT] * 20)

    (kept,) = limiter.apply_transform([{"role": "user", "content": long}])

    assert long.startswith(kept["content"])
    assert 20 <= token_count_utils.count_token(kept["content"]) <= 60


def test_afterwards_classic_has_its_own_counter_back() -> None:
    assert token_count_utils.tiktoken is tiktoken
    assert transforms.tiktoken is tiktoken
