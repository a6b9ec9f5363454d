"""Run scripts that use `ChatOpenAI` on the kernel, unmodified.

The four methods by which `langchain_openai`'s chat models call OpenAI are
replaced on the classes, which covers `init_chat_model("openai:...")`, `create_agent`
and existing instances as well. Everything else of those classes
(binding tools, structured output, callbacks) stays: they write the body of the
request, which is read into the arguments of a syscall, and they read the answer, which is
written in OpenAI's format.

No key is needed, and only the kernel's cores send anything. If no core serves the model, the
kernel's default model answers, which is reported once on standard error; so are unused options
of the connection.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing
from types import ModuleType
from typing import Any, Final

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from aios_adapters import NO_KEY, adefault_kernel
from aios_core import default_kernel
from aios_core.launch import Patches
from langchain_aios import openai_errors
from langchain_aios.callers import ref_for_run
from langchain_aios.embeddings import AIOSEmbeddings
from langchain_aios.model_methods import patch_entries
from langchain_aios.openai_calls import ChatCall, name_unused
from langchain_aios.token_counts import patch_counts

_NO_ENDPOINT: Final = "http://kernel.invalid"
_OF_ITS_EMBEDDER: Final = (
    *("dimensions", "openai_api_base", "openai_organization", "openai_proxy"),
    *("default_headers", "default_query", "http_client", "http_async_client", "max_retries"),
)
_API_VERSION: Final = "2024-10-21"  # of Azure, if none is given; nothing is sent to it


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Put the chat models of `langchain_openai.chat_models.base` on the kernel."""
    for owner in (module.BaseChatOpenAI, module.ChatOpenAI):
        _patch_methods(owner, patches)
    patch_entries(module.BaseChatOpenAI, patches)
    patch_counts(module.BaseChatOpenAI, patches)
    patches.replace(module.ChatOpenAI, "__init__", without_key(module.ChatOpenAI.__init__))


def patch_azure(module: ModuleType, patches: Patches) -> None:
    """Put `langchain_openai.AzureChatOpenAI` on the kernel."""
    _patch_methods(module.AzureChatOpenAI, patches)
    init = module.AzureChatOpenAI.__init__
    patches.replace(module.AzureChatOpenAI, "__init__", without_azure(init))


def _patch_methods(owner: Any, patches: Patches) -> None:
    for method in (_generate, _agenerate, _stream, _astream):
        patches.replace(owner, method.__name__, method)


def patch_embeddings(module: ModuleType, patches: Patches) -> None:
    """Put `langchain_openai.OpenAIEmbeddings` on the kernel's embedder."""
    owner = module.OpenAIEmbeddings
    for name in ("embed_documents", "embed_query"):
        patches.replace(owner, name, _embedding(name))
        patches.replace(owner, f"a{name}", _aembedding(f"a{name}"))
    patches.replace(owner, "__init__", without_key(owner.__init__))


def patch_azure_embeddings(module: ModuleType, patches: Patches) -> None:
    """Let `langchain_openai.AzureOpenAIEmbeddings` be made without credentials."""
    owner = module.AzureOpenAIEmbeddings
    patches.replace(owner, "__init__", without_azure(owner.__init__))


def _embedding(name: str) -> Callable[..., Any]:
    """Make a method of `OpenAIEmbeddings`; its options of chunks and model are OpenAI's alone."""

    def method(self: Any, text: Any, *_: Any, **__: Any) -> Any:
        name_unused(self, _OF_ITS_EMBEDDER)
        with openai_errors.translated():
            return getattr(AIOSEmbeddings(), name)(text)

    return method


def _aembedding(name: str) -> Callable[..., Any]:
    """Make an asynchronous method of `OpenAIEmbeddings`."""

    async def method(self: Any, text: Any, *_: Any, **__: Any) -> Any:
        name_unused(self, _OF_ITS_EMBEDDER)
        with openai_errors.translated():
            return await getattr(AIOSEmbeddings(), name)(text)

    return method


def without_key(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it works without a key, which OpenAI's client requires."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - used as one
        if not _has(values, ("api_key", "openai_api_key"), ("OPENAI_API_KEY",)):
            values["api_key"] = NO_KEY
        init(self, *args, **values)

    return __init__


def without_azure(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor so that it works without a key, endpoint or version of Azure."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - used as one
        if not _has(values, _AZURE_KEYS, ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN")):
            values["api_key"] = NO_KEY
        if not _has(values, ("azure_endpoint", *_AZURE_BASES), ("AZURE_OPENAI_ENDPOINT",)):
            values["azure_endpoint"] = _NO_ENDPOINT
        if not _has(values, ("api_version", "openai_api_version"), ("OPENAI_API_VERSION",)):
            values["api_version"] = _API_VERSION
        init(self, *args, **values)

    return __init__


_AZURE_KEYS: Final = (
    *("api_key", "openai_api_key", "azure_ad_token"),
    *("azure_ad_token_provider", "azure_ad_async_token_provider"),
)
_AZURE_BASES: Final = ("base_url", "openai_api_base")


def _has(values: Mapping[str, Any], names: Collection[str], variables: Collection[str]) -> bool:
    """Return whether a value is given under one of the names, or in the environment."""
    return any(values.get(name) for name in names) or any(map(os.environ.get, variables))


# --- the four methods: `self` is a chat model of langchain_openai ------------------------------


def _generate(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> ChatResult:
    call = ChatCall(self, default_kernel(), messages, stop, kwargs)
    with call.translated(), ref_for_run(run_manager).use() as agent:
        completion = agent.llm.generate(**call.request)
    return call.result(completion)


async def _agenerate(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> ChatResult:
    call = ChatCall(self, await adefault_kernel(), messages, stop, kwargs)
    with call.translated():
        async with ref_for_run(run_manager).ause() as agent:
            completion = await agent.llm.agenerate(**call.request)
    return call.result(completion)


def _stream(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> Iterator[ChatGenerationChunk]:
    call = ChatCall(self, default_kernel(), messages, stop, kwargs)
    with (
        call.translated(),
        ref_for_run(run_manager).use() as agent,
        agent.llm.stream(**call.request) as deltas,
    ):
        for delta in deltas:
            yield from call.chunks(delta)
        yield from call.last_chunks(deltas.completion)


async def _astream(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> AsyncIterator[ChatGenerationChunk]:
    call = ChatCall(self, await adefault_kernel(), messages, stop, kwargs)
    with call.translated(), ExitStack() as stack:  # a half-read stream must have nothing to await
        agent = await ref_for_run(run_manager).hold(stack)
        deltas = stack.enter_context(closing(agent.llm.astream(**call.request)))
        async for delta in deltas:
            for chunk in call.chunks(delta):
                yield chunk
        for chunk in call.last_chunks(deltas.completion):
            yield chunk
