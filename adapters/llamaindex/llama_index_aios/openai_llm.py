"""Programs with `llama_index.llms.openai.OpenAI` (and what derives from it) on the kernel.

Replaced are the inner methods that talk to OpenAI, so callbacks, retries and events
around them stay LlamaIndex's. A model that no core serves is answered by the
kernel's default, which is said once, on standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)

from aios_core import default_kernel
from aios_core.adapting import Patches, adefault_kernel, served_model
from llama_index_aios.llm import AIOSLLM, Metadata


def substitute(module: ModuleType, patches: Patches) -> None:
    """Let the kernel's cores answer."""
    methods = {
        "_chat": _chat,
        "_stream_chat": _stream_chat,
        "_complete": _complete,
        "_stream_complete": _stream_complete,
        "_achat": _achat,
        "_astream_chat": _astream_chat,
        "_acomplete": _acomplete,
        "_astream_complete": _astream_complete,
    }
    for name, method in methods.items():
        patches.replace(module.OpenAI, name, method)
    patches.replace(module.OpenAI, "metadata", windowed(module.OpenAI.metadata))


def windowed(theirs: property) -> property:
    """An LLM's metadata, with the window of the core that answers, if that is the smaller one."""

    def metadata(self: Any) -> LLMMetadata:
        said: LLMMetadata = theirs.__get__(self)

        def window() -> int:
            kernel = default_kernel()
            model = self.model if self.model in kernel.pool.models else None
            core = kernel.pool.route(model)[0]
            return min(core.capabilities.context_window, said.context_window)

        return Metadata(window, **said.model_dump())

    return property(metadata)


def _ours(theirs: Any, kwargs: dict[str, Any], model: str | None) -> tuple[AIOSLLM, dict[str, Any]]:
    """Our LLM with the settings of theirs, and the arguments of the call."""
    said = {**theirs.additional_kwargs, **kwargs}
    said.pop("use_chat_completions", None)
    said.pop("model", None)
    llm = AIOSLLM(
        model=model,
        temperature=theirs.temperature,
        max_tokens=theirs.max_tokens,
        timeout=theirs.timeout,
    )
    return llm, said


def _now(theirs: Any, kwargs: dict[str, Any]) -> tuple[AIOSLLM, dict[str, Any]]:
    asked = kwargs.get("model") or theirs.model
    return _ours(theirs, kwargs, served_model(default_kernel(), asked))


async def _soon(theirs: Any, kwargs: dict[str, Any]) -> tuple[AIOSLLM, dict[str, Any]]:
    asked = kwargs.get("model") or theirs.model
    return _ours(theirs, kwargs, served_model(await adefault_kernel(), asked))


# --- the eight methods: `self` is an LLM of llama_index.llms.openai -----------------------------


def _chat(self: Any, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
    llm, said = _now(self, kwargs)
    return llm.answer(messages, **said)


def _stream_chat(self: Any, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
    llm, said = _now(self, kwargs)
    return llm.steps(messages, **said)


def _complete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponse:
    llm, said = _now(self, kwargs)
    return llm.answer_prompt(prompt, **said)


def _stream_complete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponseGen:
    llm, said = _now(self, kwargs)
    return llm.steps_of_prompt(prompt, **said)


async def _achat(self: Any, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
    llm, said = await _soon(self, kwargs)
    return await llm.aanswer(messages, **said)


async def _astream_chat(
    self: Any, messages: Sequence[ChatMessage], **kwargs: Any
) -> ChatResponseAsyncGen:
    llm, said = await _soon(self, kwargs)
    return llm.asteps(messages, **said)


async def _acomplete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponse:
    llm, said = await _soon(self, kwargs)
    return await llm.aanswer_prompt(prompt, **said)


async def _astream_complete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponseAsyncGen:
    llm, said = await _soon(self, kwargs)
    return llm.asteps_of_prompt(prompt, **said)
