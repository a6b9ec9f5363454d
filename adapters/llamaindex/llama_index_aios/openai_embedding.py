"""Run `llama_index.embeddings.openai.OpenAIEmbedding` and its subclasses on the kernel.

In mode "substitute", the kernel's embedder makes the vectors, for any model and length, and no
key is needed. In mode "passthrough", its provider makes the vectors when the kernel schedules
the call: the call waits for a slot of its model, is a syscall of the agent that makes it,
and costs the tokens that the provider counts. The inner methods that call OpenAI are replaced,
so batches, callbacks and retries stay LlamaIndex's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from aios_adapters import (
    apassthrough_call,
    aregister_provider_model,
    openai_named,
    passthrough_call,
    register_provider_model,
)
from aios_core import Message, Usage
from aios_core.launch import Patches
from llama_index_aios.callers import agent_ref
from llama_index_aios.embeddings import AIOSEmbedding

_METHODS: Final = ("_get_query_embedding", "_get_text_embedding", "_get_text_embeddings")


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Replace the provider by the kernel's embedder."""
    for name in _METHODS:
        patches.replace(module.OpenAIEmbedding, name, _ours(name))
        name = f"_a{name.removeprefix('_')}"  # noqa: PLW2901
        patches.replace(module.OpenAIEmbedding, name, _aours(name))


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls at the provider."""
    owner = module.OpenAIEmbedding
    for name in _METHODS:
        patches.replace(owner, name, _scheduled(getattr(owner, name)))
        name = f"_a{name.removeprefix('_')}"  # noqa: PLW2901
        patches.replace(owner, name, _ascheduled(getattr(owner, name)))


def _ours(name: str) -> Callable[..., Any]:
    def method(self: Any, asked: str | list[str]) -> Any:
        del self  # its options are for OpenAI's models
        with openai_named():
            return getattr(AIOSEmbedding(), name)(asked)

    return method


def _aours(name: str) -> Callable[..., Any]:
    async def method(self: Any, asked: str | list[str]) -> Any:
        del self
        with openai_named():
            return await getattr(AIOSEmbedding(), name)(asked)

    return method


def _scheduled(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def asking(self: Any, asked: str | list[str]) -> Any:
        model, meter = str(self.model_name), _Meter()
        with (
            agent_ref().use(register_provider_model(model)) as agent,
            passthrough_call(agent, model, **_request(asked)) as slot,
        ):
            vectors = ask(meter.put_on(self, "_client", self._get_client()), asked)
            slot.record_usage(meter.usage)
            return vectors

    return asking


def _ascheduled(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    async def asking(self: Any, asked: str | list[str]) -> Any:
        model, meter = str(self.model_name), _AsyncMeter()
        ref = agent_ref().located()
        async with (
            ref.ause(await aregister_provider_model(model)) as agent,
            apassthrough_call(agent, model, **_request(asked)) as slot,
        ):
            theirs = meter.put_on(self, "_aclient", self._get_aclient())
            vectors = await slot.run(ask(theirs, asked))
            slot.record_usage(meter.usage)
            return vectors

    return asking


def _request(asked: str | list[str]) -> dict[str, Any]:
    """Return the call for the kernel's accounting. The answer has no tokens, but 1 is the least."""
    texts = [asked] if isinstance(asked, str) else asked
    return {"messages": [Message("user", text) for text in texts], "max_tokens": 1}


class _Meter:
    """A proxy of a client's embeddings that adds up the usage in its answers."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._theirs: Any = None

    def put_on(self, model: Any, name: str, client: Any) -> Any:
        """Return a copy of the model that sends its requests through this proxy."""
        self._theirs = client.embeddings
        copy = model.model_copy(update={"reuse_client": True})
        setattr(copy, name, SimpleNamespace(embeddings=self))
        return copy

    def create(self, **body: Any) -> Any:
        """Request embeddings, and add up their usage."""
        return self._read(self._theirs.create(**body))

    def _read(self, response: Any) -> Any:
        self.usage += Usage(response.usage.prompt_tokens)
        return response


class _AsyncMeter(_Meter):
    """An asynchronous proxy of a client's embeddings that adds up the usage."""

    async def create(self, **body: Any) -> Any:
        """Request embeddings, and add up their usage."""
        return self._read(await self._theirs.create(**body))
