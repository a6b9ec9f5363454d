"""Scripts that use `ChatOpenAI` run on the kernel unmodified.

The four methods by which `langchain_openai`'s chat models talk to OpenAI are
replaced on the classes, so that `init_chat_model("openai:...")`, `create_agent`
and instances made earlier are served as well. Everything else of those classes
(binding tools, structured output, callbacks) stays theirs.

No key is needed and nothing is sent anywhere. A model name that no core serves is
answered by the kernel's default model, which is said once, on standard error.
Arguments that mean something to OpenAI alone are passed to the core as `extra`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any, Final

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils.pydantic import is_basemodel_subclass

from aios_core import Kernel, default_kernel
from aios_core.adapting import Patches, adefault_kernel, served_model
from langchain_aios.chat_models import ChatAIOS
from langchain_aios.embeddings import AIOSEmbeddings
from langchain_aios.entries import patch_entries

log = logging.getLogger(__name__)

_DROPPED: Final = ("n", "logprobs", "top_logprobs")  # settings that no core has
_NO_KEY: Final = "no key is needed on the kernel"


def patch(module: ModuleType, patches: Patches) -> None:
    """Put the chat models of `langchain_openai.chat_models.base` on the kernel."""
    methods = {
        "_generate": _generate,
        "_agenerate": _agenerate,
        "_stream": _stream,
        "_astream": _astream,
    }
    for owner in (module.BaseChatOpenAI, module.ChatOpenAI):
        for name, method in methods.items():
            patches.replace(owner, name, method)
    patch_entries(module.BaseChatOpenAI, patches)
    patches.replace(module.ChatOpenAI, "__init__", without_key(module.ChatOpenAI.__init__))


def patch_embeddings(module: ModuleType, patches: Patches) -> None:
    """Put `langchain_openai.OpenAIEmbeddings` on the kernel's embedder."""
    owner = module.OpenAIEmbeddings
    for name in ("embed_documents", "embed_query", "aembed_documents", "aembed_query"):
        patches.replace(owner, name, _embedding(name))
    patches.replace(owner, "__init__", without_key(owner.__init__))


def _embedding(name: str) -> Callable[..., Any]:
    """A method of `OpenAIEmbeddings`: what it says of chunks and of its model is OpenAI's alone."""

    def method(self: Any, text: Any, *_: Any, **__: Any) -> Any:
        del self
        return getattr(AIOSEmbeddings(), name)(text)

    return method


def without_key(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that asks for no key; OpenAI's client refuses to be built without one."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - it becomes one
        has_key = os.environ.get("OPENAI_API_KEY") or values.keys() & {"api_key", "openai_api_key"}
        if not has_key:
            values["api_key"] = _NO_KEY
        init(self, *args, **values)

    return __init__


# --- the four methods: `self` is a chat model of langchain_openai ------------------------------


def _generate(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> ChatResult:
    call = _Call(self, kwargs, default_kernel())
    result = call.model._generate(messages, stop, run_manager, **call.kwargs)  # noqa: SLF001 - ours
    return call.finished(result)


async def _agenerate(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> ChatResult:
    call = _Call(self, kwargs, await adefault_kernel())
    result = await call.model._agenerate(messages, stop, run_manager, **call.kwargs)  # noqa: SLF001
    return call.finished(result)


def _stream(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> Iterator[ChatGenerationChunk]:
    call = _Call(self, kwargs, default_kernel())
    for chunk in call.model._stream(messages, stop, run_manager, **call.kwargs):  # noqa: SLF001
        yield call.streamed(chunk)


async def _astream(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> AsyncIterator[ChatGenerationChunk]:
    call = _Call(self, kwargs, await adefault_kernel())
    async for chunk in call.model._astream(messages, stop, run_manager, **call.kwargs):  # noqa: SLF001
        yield call.streamed(chunk)


def _is_said(value: Any) -> bool:
    return value is True or value not in (None, False, 1)


@cache
def _say_dropped(names: tuple[str, ...]) -> None:
    if names:
        log.warning(
            "the kernel's models have no %s; ChatOpenAI goes without", " and no ".join(names)
        )


class _Call:
    """One call of a foreign chat model, as one of `ChatAIOS`."""

    def __init__(self, theirs: Any, kwargs: Mapping[str, Any], kernel: Kernel) -> None:
        said = {**theirs.model_kwargs, **kwargs}
        asked = said.pop("model", None) or theirs.model_name
        _say_dropped(tuple(name for name in _DROPPED if _is_said(getattr(theirs, name, None))))
        self.kwargs = said
        self._wanted = said.get("response_format")
        self._text = ""
        timeout = theirs.request_timeout
        self.model = ChatAIOS(
            model=served_model(kernel, asked),
            temperature=theirs.temperature,
            top_p=theirs.top_p,
            max_tokens=theirs.max_tokens,
            seed=theirs.seed,
            stop=theirs.stop,
            timeout=timeout if isinstance(timeout, int | float) else None,
        )

    def finished(self, result: ChatResult) -> ChatResult:
        """With the parsed object, where langchain_openai looks for it."""
        message = result.generations[0].message
        self._add_parsed(message, str(message.content))
        return result

    def streamed(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """The same, in the last chunk."""
        message = chunk.message
        self._text += str(message.content)
        if isinstance(message, AIMessageChunk) and message.chunk_position == "last":
            self._add_parsed(message, self._text)
        return chunk

    def _add_parsed(self, message: BaseMessage, text: str) -> None:
        if self._wanted is None or not text:
            return
        with suppress(ValueError):  # cut off by a token limit: their parser says so
            is_model = isinstance(self._wanted, type) and is_basemodel_subclass(self._wanted)
            parsed = self._wanted.model_validate_json(text) if is_model else json.loads(text)
            message.additional_kwargs["parsed"] = parsed
