"""`AIOSEmbedding`: embed texts by the kernel's embedder, accounted like LLM calls."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import ConfigDict, PrivateAttr

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, Kernel
from llama_index_aios.callers import user_of_store


class AIOSEmbedding(BaseEmbedding):
    """An embedding model of LlamaIndex on the kernel.

    Args:
        agent: the agent that makes the calls, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
        kwargs: arguments of `BaseEmbedding`, such as `embed_batch_size`.
    """

    model_config = ConfigDict(extra="forbid")

    _store: AgentStore = PrivateAttr()

    def __init__(
        self,
        *,
        agent: str | Agent = "llamaindex",
        kernel: Kernel | None = None,
        group: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"model_name": "aios", "embed_batch_size": 64, **kwargs})
        self._store = AgentStore(agent, kernel, group, user_of_store)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in LlamaIndex's serialized objects."""
        return "AIOSEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._store.run(_embed([query]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._store.arun(_embed([query])))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._store.run(_embed([text]))[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._store.arun(_embed([text])))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._store.run(_embed(texts))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._store.arun(_embed(texts))


def _embed(texts: list[str]) -> StoreProgram[list[list[float]]]:
    vectors = (yield StoreOp.llm("embed", texts)) if texts else ()
    return [list(vector) for vector in vectors]
