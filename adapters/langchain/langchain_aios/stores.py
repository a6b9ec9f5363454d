"""`AIOSStore`: langchain-core's key-value store, kept in an agent's memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.stores import BaseStore

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, InvalidRequest, Kernel
from langchain_aios.callers import user_of_store

Value = Any  # a text, bytes, a JSON value or a `Document`

# The prefix of a value that is neither text nor bytes, and of a text that starts with it.
_JSON: Final = "\0json:"
_DOCUMENT: Final = "\0document:"


class AIOSStore(BaseStore[str, Value]):
    """Texts, bytes, JSON values and documents by key, durable when `mset` returns.

    It also works as a store of bytes, which `CacheBackedEmbeddings` and parent document
    retrievers require.

    Args:
        namespace: separates several stores of one agent.
        agent: the owner of the memory, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
        ttl_s: seconds that a value is kept; None: until it is deleted.
    """

    def __init__(
        self,
        namespace: str = "store",
        *,
        agent: str | Agent = "langchain",
        kernel: Kernel | None = None,
        group: str | None = None,
        ttl_s: float | None = None,
    ) -> None:
        self._namespace = f"langchain/{namespace}"
        self._store = AgentStore(agent, kernel, group, user_of_store)
        self._ttl_s = ttl_s

    def mget(self, keys: Sequence[str]) -> list[Value | None]:
        """Return the values; None for missing keys."""
        return self._store.run(self._get(keys))

    async def amget(self, keys: Sequence[str]) -> list[Value | None]:
        """Return the values; None for missing keys (async form of `mget`)."""
        return await self._store.arun(self._get(keys))

    def mset(self, key_value_pairs: Sequence[tuple[str, Value]]) -> None:
        """Set all values, or none.

        Raises:
            InvalidRequest: a value has an unsupported type.
        """
        self._store.run(self._put(key_value_pairs))

    async def amset(self, key_value_pairs: Sequence[tuple[str, Value]]) -> None:
        """Set all values, or none (async form of `mset`)."""
        await self._store.arun(self._put(key_value_pairs))

    def mdelete(self, keys: Sequence[str]) -> None:
        """Remove keys; missing ones are ignored."""
        self._store.run(self._delete(keys))

    async def amdelete(self, keys: Sequence[str]) -> None:
        """Remove keys; missing ones are ignored (async form of `mdelete`)."""
        await self._store.arun(self._delete(keys))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield the keys with a prefix, in order."""
        yield from self._store.run(self._keys(prefix))

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """Yield the keys with a prefix, in order (async form of `yield_keys`)."""
        for key in await self._store.arun(self._keys(prefix)):
            yield key

    # --- programs -----------------------------------------------------------------------------

    def _get(self, keys: Sequence[str]) -> StoreProgram[list[Value | None]]:
        entries = (yield StoreOp.kv(self._namespace, "get_many", keys)) if keys else ()
        found = {entry.key: _decoded(entry.value) for entry in entries}
        return [found.get(key) for key in keys]

    def _put(self, pairs: Sequence[tuple[str, Value]]) -> StoreProgram[None]:
        if pairs:
            encoded = {key: _encoded(key, value) for key, value in pairs}
            yield StoreOp.kv(self._namespace, "put", encoded, ttl_s=self._ttl_s)

    def _delete(self, keys: Sequence[str]) -> StoreProgram[None]:
        if keys:
            yield StoreOp.kv(self._namespace, "delete", *keys)

    def _keys(self, prefix: str | None) -> StoreProgram[list[str]]:
        entries = yield StoreOp.kv(self._namespace, "list", prefix or "", with_values=False)
        return [entry.key for entry in entries]


def _encoded(key: str, value: Value) -> str | bytes:
    if isinstance(value, bytes) or (isinstance(value, str) and not value.startswith("\0")):
        return value
    if type(value) is Document:  # a subclass would be read back as a Document
        parts = {"id": value.id, "page_content": value.page_content, "metadata": value.metadata}
        return _DOCUMENT + _as_json(key, parts)
    return _JSON + _as_json(key, value)


def _as_json(key: str, value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if json.loads(text) == value:  # false for tuples, and for keys that are numbers
            return text
    except (TypeError, ValueError, RecursionError):
        pass
    raise InvalidRequest(
        f"value of {key!r}: got {type(value).__name__}; allowed: text, bytes, a JSON value (lists, "
        "mappings with texts for keys, numbers) or a Document with such metadata"
    )


def _decoded(kept: str | bytes) -> Value:
    if isinstance(kept, str) and kept.startswith(_JSON):
        return json.loads(kept.removeprefix(_JSON))
    if isinstance(kept, str) and kept.startswith(_DOCUMENT):
        return Document(**json.loads(kept.removeprefix(_DOCUMENT)))
    return kept
