"""Run scripts that use `ChatAnthropic` on the kernel, unmodified.

The four methods by which it calls Anthropic are replaced. Its own code still writes the body of
each request and reads each answer, and the kernel replaces the endpoint, so every option of the
constructor or of a call reaches the core. No key is needed. If no core serves the model, the
kernel's default model answers, which is reported once on standard error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from aios_adapters import AnthropicTransport
from aios_core.launch import Patches
from langchain_aios.callers import ref_for_run
from langchain_aios.model_methods import patch_entries
from langchain_aios.token_counts import patch_counts


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Put `langchain_anthropic.ChatAnthropic` on the kernel."""
    owner = module.ChatAnthropic
    for name, on_kernel in (
        ("_generate", _generating),
        ("_agenerate", _agenerating),
        ("_stream", _streaming),
        ("_astream", _astreaming),
    ):
        patches.replace(owner, name, on_kernel(getattr(owner, name)))
    patch_entries(owner, patches)
    patch_counts(owner, patches)


def _generating(generate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(generate)
    def _generate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        with AnthropicTransport(ref_for_run(run_manager)) as transport, transport.raising():
            theirs = _on_kernel(self, transport)
            result: ChatResult = generate(theirs, messages, stop, run_manager, **kwargs)
            return result

    return _generate


def _agenerating(agenerate: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(agenerate)
    async def _agenerate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        agent = ref_for_run(run_manager).located()
        with AnthropicTransport(agent) as transport, transport.raising():
            theirs = _aon_kernel(self, transport)
            result: ChatResult = await agenerate(theirs, messages, stop, run_manager, **kwargs)
            return result

    return _agenerate


def _streaming(stream: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(stream)
    def _stream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with AnthropicTransport(ref_for_run(run_manager)) as transport, transport.raising():
            theirs = _on_kernel(self, transport)
            with closing(stream(theirs, messages, stop, run_manager, **kwargs)) as chunks:
                yield from chunks

    return _stream


def _astreaming(astream: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(astream)
    async def _astream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        agent = ref_for_run(run_manager).located()
        # A half-read stream must have nothing to await.
        with AnthropicTransport(agent) as transport, transport.raising():
            theirs = _aon_kernel(self, transport)
            async for chunk in astream(theirs, messages, stop, run_manager, **kwargs):
                yield chunk

    return _astream


def _on_kernel(theirs: Any, transport: AnthropicTransport) -> Any:
    """Return a copy of a model that sends its requests to the kernel."""
    copy = theirs.model_copy()
    copy.__dict__["_client"] = transport.client_for(_settings(theirs))
    return copy


def _aon_kernel(theirs: Any, transport: AnthropicTransport) -> Any:
    copy = theirs.model_copy()
    copy.__dict__["_async_client"] = transport.aclient_for(_settings(theirs))
    return copy


def _settings(theirs: Any) -> SimpleNamespace:
    """Return the settings that the model's own client would have."""
    params = theirs._client_params  # noqa: SLF001 - what it makes its client with
    timeout = {"timeout": params["timeout"]} if "timeout" in params else {}
    return SimpleNamespace(
        max_retries=params["max_retries"], _custom_headers=params["default_headers"], **timeout
    )
