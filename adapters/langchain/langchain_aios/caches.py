"""`AIOSCache`: LangChain's cache of answers, kept in an agent's memory.

    set_llm_cache(AIOSCache(ttl_s=3600))

An answer found here costs no syscall of the model, no tokens and no budget.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, Kernel
from langchain_aios.callers import user_of_store

# The classes of answers. Reading a stored answer builds no object of another class.
_ALLOWED: Final = (
    AIMessage,
    AIMessageChunk,
    ChatGeneration,
    ChatGenerationChunk,
    Generation,
    GenerationChunk,
)


class AIOSCache(BaseCache):
    """A cache of answers by prompt and model, in an agent's memory.

    Args:
        ttl_s: seconds that an answer is kept; None: until `clear`.
        agent: the owner of the memory, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
    """

    def __init__(
        self,
        *,
        ttl_s: float | None = None,
        agent: str | Agent = "langchain",
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        self._ttl_s = ttl_s
        self._store = AgentStore(agent, kernel, group, user_of_store)

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return the answer to a prompt; None if it is unknown."""
        return self._store.run(self._find(prompt, llm_string))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return the answer to a prompt; None if it is unknown (async form of `lookup`)."""
        return await self._store.arun(self._find(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store an answer."""
        self._store.run(self._keep(prompt, llm_string, return_val))

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store an answer (async form of `update`)."""
        await self._store.arun(self._keep(prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        """Delete all answers."""
        del kwargs
        self._store.run(self._clear())

    async def aclear(self, **kwargs: Any) -> None:
        """Delete all answers (async form of `clear`)."""
        del kwargs
        await self._store.arun(self._clear())

    # --- programs -----------------------------------------------------------------------------

    def _find(self, prompt: str, llm_string: str) -> StoreProgram[RETURN_VAL_TYPE | None]:
        text = yield StoreOp.kv(_NAMESPACE, "get", _key(prompt, llm_string))
        if text is None:
            return None
        answer: RETURN_VAL_TYPE = loads(text, allowed_objects=_ALLOWED)
        return answer

    def _keep(self, prompt: str, llm_string: str, answer: RETURN_VAL_TYPE) -> StoreProgram[None]:
        key = _key(prompt, llm_string)
        yield StoreOp.kv(_NAMESPACE, "set", key, dumps(list(answer)), ttl_s=self._ttl_s)

    def _clear(self) -> StoreProgram[None]:
        yield StoreOp.kv(_NAMESPACE, "clear")


_NAMESPACE: Final = "langchain/cache"


def _key(prompt: str, llm_string: str) -> str:
    """Return a key of fixed length."""
    parts = (part.encode() for part in (llm_string, prompt))
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()
