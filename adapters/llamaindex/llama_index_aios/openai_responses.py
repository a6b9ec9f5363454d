"""Run programs with `llama_index.llms.openai.OpenAIResponses` on the kernel.

As in `openai_llm`, the inner methods that call OpenAI are replaced. The options that OpenAI
would get are translated to those of a chat completion; one without a counterpart gives a notice.
Features of OpenAI's service alone (built-in tools, conversations that it stores) are refused
by name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from types import ModuleType
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    MessageRole,
)
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.prompts import PromptTemplate

from aios_adapters import NO_KEY, adefault_kernel, as_chat_options, openai_named, resolve_model
from aios_core import default_kernel
from aios_core.errors import InvalidRequest
from aios_core.launch import Patches, give_notice
from llama_index_aios.llm import AIOSLLM, AsyncChatSteps
from llama_index_aios.openai_llm import windowed

log = logging.getLogger(__name__)

Asked = Sequence[ChatMessage]
Call = tuple[AIOSLLM, list[ChatMessage], dict[str, Any]]


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Replace the provider by the kernel's cores."""
    owner = module.OpenAIResponses
    methods = {
        "__init__": _without_key(owner.__init__),
        "metadata": windowed(owner.metadata),
        "_chat": module.llm_retry_decorator(_chat),
        "_stream_chat": module.llm_retry_decorator(_stream_chat),
        "_achat": module.llm_retry_decorator(_achat),
        "_astream_chat": module.llm_retry_decorator(_astream_chat),
        "structured_predict": _structured_predict,
        "astructured_predict": _astructured_predict,
    }
    for name, method in methods.items():
        patches.replace(owner, name, method)


def _without_key(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it works without a key, which OpenAI's client requires."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - used as one
        if not values.get("api_key") and not os.environ.get("OPENAI_API_KEY"):
            values["api_key"] = NO_KEY
        init(self, *args, **values)

    return __init__


def _now(theirs: Any, messages: Asked, kwargs: dict[str, Any]) -> Call:
    asked = kwargs.get("model") or theirs.model
    return _ours(theirs, messages, kwargs, resolve_model(default_kernel(), asked))


async def _soon(theirs: Any, messages: Asked, kwargs: dict[str, Any]) -> Call:
    asked = kwargs.get("model") or theirs.model
    return _ours(theirs, messages, kwargs, resolve_model(await adefault_kernel(), asked))


def _ours(theirs: Any, messages: Asked, kwargs: dict[str, Any], model: str | None) -> Call:
    """Return an `AIOSLLM` with the settings of theirs, the conversation, and the arguments."""
    said = theirs._get_model_kwargs(**kwargs)  # noqa: SLF001 - what it would send
    if theirs.built_in_tools:
        raise InvalidRequest("built_in_tools: only OpenAI has them; use the kernel's tools")
    if theirs.track_previous_responses or said.pop("previous_response_id", None):
        raise InvalidRequest("previous responses: only OpenAI stores them; send all messages")
    instructions = said.pop("instructions", None)
    first = [ChatMessage(role=MessageRole.SYSTEM, content=instructions)] if instructions else []
    del said["model"]
    options, unused = as_chat_options(said)
    for name in unused:
        give_notice(
            log,
            (__name__, name),
            f"{name!r} of OpenAIResponses is not sent: only the Responses API has it, and the "
            "kernel's cores use chat completions",
        )
    return AIOSLLM(model=model, timeout=theirs.timeout), [*first, *messages], options


# --- the methods: `self` is an OpenAIResponses ---------------------------------------------------


def _chat(self: Any, messages: Asked, **kwargs: Any) -> ChatResponse:
    with openai_named():
        llm, conversation, options = _now(self, messages, kwargs)
        return llm.answer(conversation, **options)


def _stream_chat(self: Any, messages: Asked, **kwargs: Any) -> ChatResponseGen:
    with openai_named():
        llm, conversation, options = _now(self, messages, kwargs)
        return _named(llm.stream_steps(conversation, **options))


async def _achat(self: Any, messages: Asked, **kwargs: Any) -> ChatResponse:
    with openai_named():
        llm, conversation, options = await _soon(self, messages, kwargs)
        return await llm.aanswer(conversation, **options)


async def _astream_chat(self: Any, messages: Asked, **kwargs: Any) -> ChatResponseAsyncGen:
    with openai_named():
        llm, conversation, options = await _soon(self, messages, kwargs)
        return _anamed(llm.astream_steps(conversation, **options))


def _named(steps: ChatResponseGen) -> ChatResponseGen:
    with openai_named(), closing(steps):
        yield from steps


async def _anamed(steps: AsyncChatSteps) -> ChatResponseAsyncGen:
    with openai_named():
        async with aclosing(steps):
            async for step in steps:
                yield step


def _structured_predict(
    self: Any,
    output_cls: type[BaseModel],
    prompt: PromptTemplate,
    llm_kwargs: dict[str, Any] | None = None,
    **prompt_args: Any,
) -> BaseModel:
    kwargs = {**(llm_kwargs or {}), "response_format": output_cls}
    response = self.chat(prompt.format_messages(**prompt_args), **kwargs)
    return output_cls.model_validate_json(response.message.content)


async def _astructured_predict(
    self: Any,
    output_cls: type[BaseModel],
    prompt: PromptTemplate,
    llm_kwargs: dict[str, Any] | None = None,
    **prompt_args: Any,
) -> BaseModel:
    kwargs = {**(llm_kwargs or {}), "response_format": output_cls}
    response = await self.achat(prompt.format_messages(**prompt_args), **kwargs)
    return output_cls.model_validate_json(response.message.content)
