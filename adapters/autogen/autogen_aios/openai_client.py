"""Run scripts that use `OpenAIChatCompletionClient` on the kernel, unmodified.

The methods by which `autogen_ext`'s OpenAI clients send requests and count tokens are replaced
on their class, which covers clients of a configuration file and existing instances as well.
AutoGen's own code still writes each request and reads each answer, and the kernel replaces the
endpoint, so every option of a constructor or a call reaches the core. No key is needed, nothing
is sent anywhere, and counting downloads no tokenizer. If no core serves the model, the kernel's
default model answers, which is reported once on standard error.
"""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from autogen_core.models import CreateResult, LLMMessage

from aios_adapters import NO_KEY, KernelTransport
from aios_core.launch import Patches
from autogen_aios.client_calls import account, count_tokens, read_agent, remaining_tokens

_NO_ENDPOINT: Final = "https://no-endpoint.invalid"


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Put the clients of `autogen_ext.models.openai._openai_client` on the kernel."""
    base = module.BaseOpenAIChatCompletionClient
    patches.replace(base, "create", _creating(base.create))
    patches.replace(base, "create_stream", _streaming(base.create_stream))
    patches.replace(base, "count_tokens", count_tokens)
    patches.replace(base, "remaining_tokens", remaining_tokens)
    for name, defaults in (
        ("OpenAIChatCompletionClient", _openai_defaults),
        ("AzureOpenAIChatCompletionClient", _azure_defaults),
    ):
        client = getattr(module, name)
        patches.replace(client, "__init__", _with_defaults(client.__init__, defaults))


def _with_defaults(
    init: Callable[..., None], defaults: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> Callable[..., None]:
    """Wrap a constructor so that it works without credentials, which OpenAI's clients require."""

    def __init__(self: Any, **values: Any) -> None:  # noqa: N807 - used as one
        init(self, **{**defaults(values), **values})

    return __init__


def _openai_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    del values
    return {} if os.environ.get("OPENAI_API_KEY") else {"api_key": NO_KEY}


def _azure_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"api_version": "none"}
    if not ({"azure_endpoint", "base_url"} & values.keys()):
        defaults["azure_endpoint"] = os.environ.get("AZURE_OPENAI_ENDPOINT", _NO_ENDPOINT)
    if not ({"azure_ad_token", "azure_ad_token_provider"} & values.keys()):
        defaults["api_key"] = os.environ.get("AZURE_OPENAI_API_KEY", NO_KEY)
    return defaults


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
        with KernelTransport(agent) as transport, transport.raising():
            theirs = _on_kernel(self, transport)
            result: CreateResult = await create(
                theirs, messages, extra_create_args=extra, **arguments
            )
        account(self, result.usage)
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
        transport = KernelTransport(agent)
        theirs = _on_kernel(self, transport)
        asked = create_stream(theirs, messages, extra_create_args=extra, **arguments)
        return _streamed(self, transport, asked)

    return stream_on_kernel


async def _streamed(
    theirs: Any, transport: KernelTransport, stream: AsyncGenerator[str | CreateResult, None]
) -> AsyncGenerator[str | CreateResult, None]:
    with transport, transport.raising():  # a half-read stream must have nothing to await
        async for item in stream:
            if isinstance(item, CreateResult):
                account(theirs, item.usage)
            yield item


def _on_kernel(theirs: Any, transport: KernelTransport) -> Any:
    """Return a copy of a client that sends its requests to the kernel."""
    client = copy.copy(theirs)
    client._client = transport.aclient_for(theirs._client)  # noqa: SLF001 - the one seam there is
    client._resolved_model = None  # noqa: SLF001 - else it warns when another model answers
    return client
