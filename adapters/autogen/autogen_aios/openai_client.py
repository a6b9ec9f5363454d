"""Scripts that use `OpenAIChatCompletionClient` run on the kernel unmodified.

The methods by which `autogen_ext`'s OpenAI clients ask and count are replaced on
their class, so that clients of a configuration file and instances made earlier
are served as well. No key is needed and nothing is sent anywhere; counting needs
no tokenizer's download. A model name that no core serves is answered by the
kernel's default model, which is said once, on standard error.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from autogen_core.models import CreateResult, LLMMessage, RequestUsage

from aios_core import Kernel
from aios_core.adapting import Patches, adefault_kernel, served_model
from autogen_aios.model_client import AIOSChatCompletionClient, Asker

_NO_KEY: Final = "no key is needed on the kernel"


def substitute(module: ModuleType, patches: Patches) -> None:
    """Put the clients of `autogen_ext.models.openai._openai_client` on the kernel."""
    base = module.BaseOpenAIChatCompletionClient
    patches.replace(base, "create", _create)
    patches.replace(base, "create_stream", _create_stream)
    patches.replace(base, "count_tokens", _count_tokens)
    patches.replace(base, "remaining_tokens", _remaining_tokens)
    client = module.OpenAIChatCompletionClient
    patches.replace(client, "__init__", _without_key(client.__init__))


def _without_key(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that asks for no key; OpenAI's client refuses to be built without one."""

    def __init__(self: Any, **values: Any) -> None:  # noqa: N807 - it becomes one
        if "api_key" not in values and not os.environ.get("OPENAI_API_KEY"):
            values["api_key"] = _NO_KEY
        init(self, **values)

    return __init__


# --- the methods: `self` is a client of autogen_ext ----------------------------------------------

_ours: Final[WeakKeyDictionary[Any, AIOSChatCompletionClient]] = WeakKeyDictionary()


def _client_of(theirs: Any) -> AIOSChatCompletionClient:
    """Who answers in its place."""
    if (client := _ours.get(theirs)) is None:
        client = AIOSChatCompletionClient(
            model_info=theirs.model_info,
            include_name_in_message=theirs._include_name_in_message,  # noqa: SLF001 - as it was told
        )
        _ours[theirs] = client
    return client


def _options(theirs: Any, said: Mapping[str, Any] | None, kernel: Kernel) -> dict[str, Any]:
    """The client's own options under those of the call, with a model that is served."""
    options = {**theirs._create_args, **(said or {})}  # noqa: SLF001
    return {**options, "model": served_model(kernel, options.get("model"))}


async def _create(
    self: Any,
    messages: Sequence[LLMMessage],
    *,
    extra_create_args: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> CreateResult:
    options = _options(self, extra_create_args, await adefault_kernel())
    result = await _client_of(self).create(messages, extra_create_args=options, **arguments)
    _account(self, result.usage)
    return result


def _create_stream(
    self: Any,
    messages: Sequence[LLMMessage],
    *,
    extra_create_args: Mapping[str, Any] | None = None,
    max_consecutive_empty_chunk_tolerance: int = 0,  # noqa: ARG001 - there are none here
    include_usage: bool | None = None,  # noqa: ARG001 - it is always there
    **arguments: Any,
) -> AsyncGenerator[str | CreateResult, None]:
    caller = _client_of(self).caller(extra_create_args or {})
    return _streamed(self, caller, messages, extra_create_args, arguments)


async def _streamed(
    theirs: Any,
    caller: Asker,
    messages: Sequence[LLMMessage],
    extra: Mapping[str, Any] | None,
    arguments: dict[str, Any],
) -> AsyncGenerator[str | CreateResult, None]:
    options = _options(theirs, extra, await adefault_kernel())
    stream = _client_of(theirs).stream_of(caller, messages, extra_create_args=options, **arguments)
    try:
        async for item in stream:
            if isinstance(item, CreateResult):
                _account(theirs, item.usage)
            yield item
    finally:
        await stream.aclose()


def _account(theirs: Any, usage: RequestUsage) -> None:
    for name in ("_actual_usage", "_total_usage"):
        before = getattr(theirs, name)
        after = RequestUsage(
            before.prompt_tokens + usage.prompt_tokens,
            before.completion_tokens + usage.completion_tokens,
        )
        setattr(theirs, name, after)


def _count_tokens(self: Any, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()) -> int:
    return _client_of(self).count_tokens(messages, tools=tools)


def _remaining_tokens(
    self: Any, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()
) -> int:
    return _client_of(self).remaining_tokens(messages, tools=tools)
