"""Run scripts that use Agent Framework's OpenAI clients on the kernel, unmodified.

The method by which `OpenAIChatClient` and `OpenAIChatCompletionClient` send requests is
replaced on their classes; function calls, middleware and telemetry stay the framework's. The
second client still writes its own requests and reads the answers, and the kernel replaces the
endpoint, so every option reaches the core. (The first uses the Responses API.) No
key is needed and nothing is sent anywhere. If no core serves the model, the kernel's default
model answers, which is reported once on standard error.
"""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any, Final

from agent_framework import ChatResponse, ChatResponseUpdate, ResponseStream

from aios_adapters import DEFAULT_MODEL, NO_KEY, KernelTransport
from aios_core.launch import Patches
from autogen_aios.agent_framework import (
    RawAIOSChatClient,
    free_dropped_streams,
    remember_caller,
    translated,
)

_OURS: Final = "aios"  # the option that names the agent of a call
Updates = ResponseStream[ChatResponseUpdate, ChatResponse]


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Put the chat clients of a module of `agent_framework_openai` on the kernel."""
    for name, replaced in (
        ("OpenAIChatClient", _responding),
        ("OpenAIChatCompletionClient", _completing),
    ):
        if (client := getattr(module, name, None)) is not None:
            raw = getattr(module, f"Raw{name}")
            asking = replaced(raw._inner_get_response)  # noqa: SLF001 - the framework's own seam
            patches.replace(raw, "_inner_get_response", asking)
            patches.replace(client, "get_response", remember_caller(client.get_response))
            patches.replace(client, "__init__", _without_key(client.__init__))


def _responding(_: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method that answers requests of the Responses API through `RawAIOSChatClient`."""

    def _inner_get_response(self: Any, **arguments: Any) -> Any:
        ours = RawAIOSChatClient(model=self.model or None, is_substitute=True)
        return ours._inner_get_response(**arguments)  # noqa: SLF001 - the framework's own seam

    return _inner_get_response


def _completing(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method in which the framework's client sends its chat completions to the kernel."""

    def _inner_get_response(
        self: Any, *, options: Mapping[str, Any], stream: bool = False, **kwargs: Any
    ) -> Awaitable[ChatResponse] | Updates:
        with translated():
            # Find the agent now: a stream may be read in another task.
            agent = RawAIOSChatClient().agent_ref(options, kwargs)
        transport = KernelTransport(agent)
        theirs = {key: value for key, value in options.items() if key != _OURS}
        asked = ask(_on_kernel(self, transport), options=theirs, stream=stream, **kwargs)
        if not stream:
            return _answered(transport, asked)
        finalizer = asked._finalizer  # noqa: SLF001 - it parses the answer's format
        return ResponseStream(_streamed(transport, asked), finalizer=finalizer)

    return _inner_get_response


async def _answered(transport: KernelTransport, asked: Awaitable[ChatResponse]) -> ChatResponse:
    with transport, transport.raising():
        return await asked


async def _streamed(
    transport: KernelTransport, updates: Updates
) -> AsyncIterator[ChatResponseUpdate]:
    free_dropped_streams()
    with transport, transport.raising():  # a half-read stream must have nothing to await
        async for update in updates:
            yield update


def _on_kernel(theirs: Any, transport: KernelTransport) -> Any:
    """Return a copy of a client that sends its requests to the kernel."""
    client = copy.copy(theirs)
    client.client = transport.aclient_for(theirs.client)
    client.model = theirs.model or DEFAULT_MODEL
    return client


def _without_key(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it works without a key."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - used as one
        if not os.environ.get("OPENAI_API_KEY"):
            values.setdefault("api_key", NO_KEY)
        init(self, *args, **values)

    return __init__
