"""Run scripts that use `AnthropicChatCompletionClient` on the kernel, unmodified.

The methods by which `autogen_ext`'s Anthropic clients send requests and count tokens are replaced
on their class, which covers clients of a configuration file and existing instances as well.
AutoGen's own code still writes each request and reads each answer, and the kernel replaces the
endpoint. No key is needed. If no core serves the model, the kernel's default model answers, which
is reported once on standard error.
"""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from autogen_core.models import CreateResult, LLMMessage, RequestUsage

from aios_adapters import NO_ANTHROPIC_KEY, AnthropicTransport
from aios_core.launch import Patches
from autogen_aios.client_calls import account, count_tokens, read_agent, remaining_tokens

_KEYS: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Put the clients of `autogen_ext.models.anthropic._anthropic_client` on the kernel."""
    base = module.BaseAnthropicChatCompletionClient
    patches.replace(base, "create", _creating(base.create))
    patches.replace(base, "create_stream", _streaming(base.create_stream))
    patches.replace(base, "count_tokens", count_tokens)
    patches.replace(base, "remaining_tokens", remaining_tokens)
    owner = module.AnthropicChatCompletionClient
    patches.replace(owner, "__init__", _without_key(owner.__init__))


def _without_key(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it works without a key, which Anthropic's client requires."""

    def __init__(self: Any, **values: Any) -> None:  # noqa: N807 - used as one
        if not (values.get("api_key") or any(map(os.environ.get, _KEYS))):
            values["api_key"] = NO_ANTHROPIC_KEY
        init(self, **values)

    return __init__


# --- the methods: `self` is a client of autogen_ext ----------------------------------------------


def _creating(create: Callable[..., Any]) -> Callable[..., Any]:
    async def create_on_kernel(
        self: Any,
        messages: Sequence[LLMMessage],
        *,
        extra_create_args: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> CreateResult:
        agent, extra = read_agent(self, extra_create_args)
        with AnthropicTransport(agent) as transport, transport.raising():
            theirs = _on_kernel(self, transport)
            result: CreateResult = await create(
                theirs, messages, extra_create_args=extra, **arguments
            )
        _hand_back(self, theirs, result.usage)
        return result

    return create_on_kernel


def _streaming(create_stream: Callable[..., Any]) -> Callable[..., Any]:
    def stream_on_kernel(
        self: Any,
        messages: Sequence[LLMMessage],
        *,
        extra_create_args: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> AsyncGenerator[str | CreateResult, None]:
        agent, extra = read_agent(self, extra_create_args)
        transport = AnthropicTransport(agent)
        theirs = _on_kernel(self, transport)
        asked = create_stream(theirs, messages, extra_create_args=extra, **arguments)
        return _streamed(self, theirs, transport, asked)

    return stream_on_kernel


async def _streamed(
    original: Any,
    theirs: Any,
    transport: AnthropicTransport,
    stream: AsyncGenerator[str | CreateResult, None],
) -> AsyncGenerator[str | CreateResult, None]:
    with transport, transport.raising():  # a half-read stream must have nothing to await
        async for item in stream:
            if isinstance(item, CreateResult):
                # AutoGen reads the prompt's size from the first event, which comes before the
                # kernel knows it.
                item.usage.prompt_tokens = transport.num_prompt_tokens
                _hand_back(original, theirs, item.usage)
            yield item


def _on_kernel(theirs: Any, transport: AnthropicTransport) -> Any:
    """Return a copy of a client that sends its requests to the kernel."""
    client = copy.copy(theirs)
    client._client = transport.aclient_for(theirs._client)  # noqa: SLF001 - the one seam there is
    return client


def _hand_back(original: Any, theirs: Any, usage: RequestUsage) -> None:
    """Keep in a client what a call has changed in its copy."""
    original._last_used_tools = theirs._last_used_tools  # noqa: SLF001 - for the next call
    account(original, usage)
