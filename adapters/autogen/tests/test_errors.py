"""An error under substitution is the framework's own kind, and the kernel's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from agent_framework import Message
from agent_framework.exceptions import ChatClientException
from agent_framework.openai import OpenAIChatClient as ResponsesClient
from agent_framework.openai import OpenAIChatCompletionClient as FrameworkClient
from autogen import OpenAIWrapper

from aios_core import KernelError, default_kernel
from aios_core.cores import ScriptedCore
from aios_core.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextOverflow,
    ModelNotFound,
    RateLimited,
)
from aios_core.testing.stub_server import Answer, Refuse, StubServer
from autogen_aios import AIOSChatCompletionClient
from autogen_aios.agent_framework import AIOSChatClient

from .clients import HI, MODEL, client_of

FILTERED = Refuse(400, "The response was filtered", code="content_filter")
REFUSALS = [
    (Refuse(401, "bad key"), openai.AuthenticationError, AuthenticationFailed),
    (Refuse(403, "not for you"), openai.PermissionDeniedError, KernelError),
    (Refuse(404, "no such model", code="model_not_found"), openai.NotFoundError, ModelNotFound),
    (Refuse(400, "wrong"), openai.BadRequestError, KernelError),
    (Refuse(400, "maximum context length is 9"), openai.BadRequestError, ContextOverflow),
    (Refuse(429, "slow", {"Retry-After": "3600"}), openai.RateLimitError, RateLimited),
    (FILTERED, openai.BadRequestError, ContentFiltered),
    (Refuse(500, "oh"), openai.InternalServerError, KernelError),
]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("named", REFUSALS, ids=lambda named: named[2].__name__)
async def test_a_refusal_is_caught_by_its_native_name_and_the_kernels(
    named: tuple[Refuse, type[openai.APIStatusError], type[KernelError]],
    is_streamed: bool,
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    refusal, theirs, ours = named
    behind = provider(refusal)
    substituted(behind)
    client = client_of(behind)

    async def ask() -> None:
        if is_streamed:
            assert [item async for item in client.create_stream(HI)]
        else:
            await client.create(HI)

    with pytest.raises(theirs) as caught:
        await ask()

    assert isinstance(caught.value, ours)
    assert caught.value.status_code == refusal.status
    assert isinstance(caught.value, KernelError)
    assert caught.value.provider_message == refusal.message


async def test_autogens_own_client_raises_the_kernels_kinds(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    behind = provider(Refuse(429, "slow", {"Retry-After": "3600"}))
    substituted(behind)
    client = AIOSChatCompletionClient(model=MODEL)

    with pytest.raises(RateLimited) as answered:
        await client.create(HI)
    with pytest.raises(RateLimited) as streamed:
        assert [item async for item in client.create_stream(HI)]

    for caught in (answered, streamed):
        assert caught.value.retry_after_s > 3_000


FRAMEWORKS: list[tuple[Refuse, type[Exception], type[KernelError]]] = [
    (FILTERED, ChatClientException, ContentFiltered),
    (Refuse(401, "bad key"), ChatClientException, AuthenticationFailed),
    (Refuse(404, "no model", code="model_not_found"), ChatClientException, ModelNotFound),
    (Refuse(429, "slow", {"Retry-After": "3600"}), ChatClientException, RateLimited),
    (Refuse(400, "maximum context length is 9"), ChatClientException, ContextOverflow),
]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("kind", [FrameworkClient, ResponsesClient, AIOSChatClient])
@pytest.mark.parametrize("named", FRAMEWORKS, ids=lambda named: named[2].__name__)
async def test_agent_frameworks_errors_are_its_own_and_the_kernels(
    named: tuple[Refuse, type[Exception], type[KernelError]],
    kind: Any,
    is_streamed: bool,
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    refusal, theirs, ours = named
    behind = provider(refusal)
    substituted(behind)
    client = kind(model=MODEL)

    async def ask() -> None:
        said = [Message("user", ["hi"])]
        if is_streamed:
            assert [update async for update in client.get_response(said, stream=True)]
        else:
            await client.get_response(said)

    with pytest.raises(theirs) as caught:
        await ask()

    assert isinstance(caught.value, ours)


@pytest.mark.parametrize(
    "refusal",
    [
        Refuse(500, "oh"),
        Refuse(429, "slow"),
        Refuse(401, "bad key"),
        Refuse(403, "not for you"),
        Refuse(404, "no such model", code="model_not_found"),
        Refuse(400, "maximum context length is 9"),
    ],
    ids=lambda refusal: str(refusal.status),
)
def test_classic_turns_to_the_next_entry_after_an_error(
    refusal: Refuse, provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    behind = provider(refusal, Answer("second"))
    substituted(behind)
    entries = [{"model": MODEL, "api_key": "k"}, {"model": MODEL, "api_key": "k"}]
    wrapper = OpenAIWrapper(config_list=entries, cache_seed=None)

    response = wrapper.create(messages=[{"role": "user", "content": "hi"}])

    assert wrapper.extract_text_or_completion_object(response) == ["second"]


def test_classic_turns_to_the_next_entry_after_a_long_rate_limit(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    behind = provider(Refuse(429, "slow", {"Retry-After": "3600"}))
    substituted(behind)
    default_kernel().add_core(ScriptedCore("second", name="other", models=("other",)))
    entries = [{"model": MODEL, "api_key": "k"}, {"model": "other", "api_key": "k"}]
    wrapper = OpenAIWrapper(config_list=entries, cache_seed=None)

    for _ in range(2):
        response = wrapper.create(messages=[{"role": "user", "content": "hi"}])
        assert wrapper.extract_text_or_completion_object(response) == ["second"]

    assert len(behind.exchanges) == 1
    with pytest.raises(openai.RateLimitError):
        OpenAIWrapper(config_list=entries[:1], cache_seed=None).create(
            messages=[{"role": "user", "content": "hi"}]
        )
