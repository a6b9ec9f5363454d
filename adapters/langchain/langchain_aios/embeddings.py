"""`AIOSEmbeddings`: embed texts by the kernel's embedder, accounted like LLM calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from langchain_core.embeddings import Embeddings

from aios_core import Agent, Kernel
from langchain_aios.callers import agent_ref
from langchain_aios.errors import translated

_BATCH: Final = 256  # texts of one syscall


class AIOSEmbeddings(Embeddings):
    """Embeddings of LangChain on the kernel. Vectors have length 1.

    Errors are those of `aios_core.errors`.

    Args:
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the run, the task or the thread, as for a model.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned.

    >>> AIOSEmbeddings().embed_query("where is the harbour?")
    """

    def __init__(
        self,
        *,
        agent: str | Agent | None = None,
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        self._agent = agent_ref(agent, group, kernel)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text, in order."""
        with translated(), self._agent.use() as agent:
            return [list(vector) for batch in _batches(texts) for vector in agent.llm.embed(batch)]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text; questions are embedded like all other texts."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text (async form of `embed_documents`)."""
        with translated():
            async with self._agent.ause() as agent:
                return [
                    list(vector)
                    for batch in _batches(texts)
                    for vector in await agent.llm.aembed(batch)
                ]

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of a text (async form of `embed_query`)."""
        return (await self.aembed_documents([text]))[0]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), _BATCH):
        yield texts[start : start + _BATCH]
