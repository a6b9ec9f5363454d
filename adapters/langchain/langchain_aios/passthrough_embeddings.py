"""Mode "passthrough" for `OpenAIEmbeddings`: the kernel schedules its provider's calls.

A call waits for a slot of its model as a chat model's does (`passthrough`), and is a
syscall of the agent that makes it. The provider counts its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from aios_adapters import (
    AgentSettings,
    apassthrough_call,
    aregister_provider_model,
    passthrough_call,
    register_provider_model,
)
from aios_core import Message, Usage
from aios_core.launch import Patches
from langchain_aios.callers import directory, find_running_caller
from langchain_aios.openai_errors import translated

Vectors = list[list[float]]


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of the embeddings in `langchain_openai.embeddings.base`."""
    owner = module.OpenAIEmbeddings
    embed, aembed = owner.embed_documents, owner.aembed_documents

    def embed_documents(
        self: Any, texts: list[str], chunk_size: int | None = None, **kwargs: Any
    ) -> Vectors:
        caller, settings = find_running_caller(None, AgentSettings())
        model, meter = str(self.model), _Meter(self.client)
        with (
            translated(),
            directory.use(register_provider_model(model), caller, settings) as agent,
            passthrough_call(agent, model, **_request(texts)) as slot,
        ):
            vectors: Vectors = embed(meter.put_on(self, "client"), texts, chunk_size, **kwargs)
            slot.record_usage(meter.usage)
            return vectors

    async def aembed_documents(
        self: Any, texts: list[str], chunk_size: int | None = None, **kwargs: Any
    ) -> Vectors:
        caller, settings = find_running_caller(None, AgentSettings())
        model, meter = str(self.model), _AsyncMeter(self.async_client)
        with translated():
            kernel = await aregister_provider_model(model)
            async with (
                directory.ause(kernel, caller, settings) as agent,
                apassthrough_call(agent, model, **_request(texts)) as slot,
            ):
                theirs = meter.put_on(self, "async_client")
                vectors: Vectors = await slot.run(aembed(theirs, texts, chunk_size, **kwargs))
                slot.record_usage(meter.usage)
                return vectors

    patches.replace(owner, "embed_documents", embed_documents)
    patches.replace(owner, "aembed_documents", aembed_documents)


def _request(texts: Sequence[str]) -> dict[str, Any]:
    """Return the call for the kernel's accounting. The answer has no tokens, but 1 is the least."""
    return {"messages": [Message("user", text) for text in texts], "max_tokens": 1}


class _Meter:
    """A client of OpenAI's embeddings that adds up the usage in its answers."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.usage = Usage()

    def put_on(self, theirs: Any, name: str) -> Any:
        """Return a copy of the embeddings that uses this client; raises if they have none."""
        return theirs if self._client is None else theirs.model_copy(update={name: self})

    def create(self, **body: Any) -> Any:
        """Request embeddings, and add up their usage."""
        return self._read(self._client.create(**body))

    def _read(self, response: Any) -> Any:
        took = response if isinstance(response, dict) else response.model_dump()
        self.usage += Usage((took.get("usage") or {}).get("prompt_tokens") or 0)
        return response


class _AsyncMeter(_Meter):
    """An asynchronous client of OpenAI's embeddings that adds up the usage in its answers."""

    async def create(self, **body: Any) -> Any:
        """Request embeddings, and add up their usage."""
        return self._read(await self._client.create(**body))
