"""`AIOSGraphStore`: LangGraph's long-term store, kept in an agent's memory.

    graph.compile(store=AIOSGraphStore(index={"dims": 384, "embed": mine, "fields": ["text"]}))

Items are durable when `put` returns and may expire. With `index`, the fields that it names are
embedded, by its own embedder or else the kernel's, and `search(query=...)` ranks by
meaning. Filters, namespaces, order and configuration are those of LangGraph's own stores.

An item is an entry of the agent's memory, its vectors are another entry under the same key. Both
hold the item's version: vectors of another version belong to a replaced text and are ignored.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from langchain_core.embeddings import Embeddings
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, Kernel
from aios_core.errors import InvalidRequest
from aios_core.launch import give_notice
from langchain_aios.callers import user_of_store
from langchain_aios.item_search import Namespace, Vector, fits, matches, nearness, ranked
from langchain_aios.item_values import dump_value, load_value
from langchain_aios.ttl_sweeper import Sweeper

log = logging.getLogger(__name__)

_MINUTE: Final = 60.0
_SWEEP_MINUTES: Final = 5.0  # the default of LangGraph's stores
_moments: Final = itertools.count(time.time_ns())  # increases over restarts of the process too


class AIOSGraphStore(BaseStore):
    """A LangGraph store that keeps items by namespace and key in an agent's memory.

    Args:
        name: separates several stores of one agent.
        agent: the agent that owns the memory: a name, or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
        index: LangGraph's `IndexConfig`; without "embed" the kernel's embedder makes the vectors.
            A list of field paths also works ("$" is all). None: nothing is embedded or ranked.
        ttl: LangGraph's configuration of expiry, in minutes.
        serde: LangGraph's serializer, for values that are not JSON; None for its default.
    """

    supports_ttl = True

    def __init__(
        self,
        name: str = "store",
        *,
        agent: str | Agent = "langgraph",
        kernel: Kernel | None = None,
        group: str | None = None,
        index: IndexConfig | Sequence[str] | None = None,
        ttl: TTLConfig | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        self._items = f"langgraph/{name}/items"
        self._vectors = f"langgraph/{name}/vectors"
        self._store = AgentStore(agent, kernel, group, user_of_store)
        self._serde = serde or JsonPlusSerializer()
        self.index_config = _index_config(index)
        embed = (self.index_config or {}).get("embed")
        self.embeddings: Embeddings | None = ensure_embeddings(embed) if embed else None
        self.ttl_config = ttl
        self._sweeper = Sweeper(self.sweep_ttl)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Perform operations: reads see the state before the batch, the writes come last."""
        return self._store.run(self._batch(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Perform operations on an event loop (async form of `batch`)."""
        return await self._store.arun(self._batch(list(ops)))

    # --- expiry -------------------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """Remove the items that have expired. Returns how many there were."""
        return self._store.run(self._sweep())

    async def asweep_ttl(self) -> int:
        """Remove expired items on an event loop. Returns how many there were."""
        return await self._store.arun(self._sweep())

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Start a thread that removes expired items regularly.

        Stop it with `stop_ttl_sweeper`, or cancel the future. Writes remove expired items too;
        this frees the space when there are no writes.
        """
        configured = (self.ttl_config or {}).get("sweep_interval_minutes")
        minutes = sweep_interval_minutes or configured or _SWEEP_MINUTES
        return self._sweeper.start(minutes * _MINUTE)

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the sweeper. Returns whether it ended within `timeout` seconds."""
        return self._sweeper.stop(timeout)

    def _sweep(self) -> StoreProgram[int]:
        yield StoreOp.kv(self._vectors, "sweep")
        num_swept: int = yield StoreOp.kv(self._items, "sweep")
        return num_swept

    # --- programs -----------------------------------------------------------------------------

    def _batch(self, ops: Sequence[Op]) -> StoreProgram[list[Result]]:
        results: list[Result] = []
        puts: dict[str, PutOp] = {}
        for op in ops:
            result: Result = None
            match op:
                case GetOp():
                    result = yield from self._get(op)
                case SearchOp():
                    result = yield from self._search(op)
                case ListNamespacesOp():
                    result = yield from self._list(op)
                case PutOp():
                    puts[_key(op.namespace, op.key)] = op
                case _:
                    raise InvalidRequest(f"op: got {op!r:.200}; allowed: LangGraph's four kinds")
            results.append(result)
        bodies = {key: self._body_of(op) for key, op in puts.items()}  # raises before any write
        for key, put in puts.items():
            yield from self._put(key, put, bodies[key])
        return results

    def _get(self, op: GetOp) -> StoreProgram[Item | None]:
        entries = yield StoreOp.kv(self._items, "get_many", (_key(op.namespace, op.key),))
        if not entries:
            return None
        if op.refresh_ttl:
            yield from self._refresh(entries)
        return Item(**self._about(entries[0]))

    def _body_of(self, op: PutOp) -> str | None:
        if op.value is None:
            return None
        place = f"value of {op.key!r} in {op.namespace!r}"
        return dump_value(dict(op.value), self._serde, place)

    def _put(self, key: str, op: PutOp, body: str | None) -> StoreProgram[None]:
        if body is None:
            yield StoreOp.kv(self._items, "delete", key)
            yield StoreOp.kv(self._vectors, "delete", key)
            return
        ttl_s = None if op.ttl is None else op.ttl * _MINUTE
        texts = self._texts(op)
        vectors = (yield self._embed(texts)) if texts else ()
        self._require_dims(vectors)
        order = yield from self._order_of(key, op.namespace)
        version = next(_moments)
        about = json.dumps({"ttl": op.ttl, "order": order, "version": version})
        yield StoreOp.kv(self._items, "put", {key: f'{about[:-1]}, "value": {body}}}'}, ttl_s=ttl_s)
        kept = {"version": version, "vectors": [[*map(float, vector)] for vector in vectors]}
        text = json.dumps(kept) if vectors else None
        yield StoreOp.kv(self._vectors, "put", {key: text}, ttl_s=ttl_s)

    def _order_of(self, key: str, namespace: Namespace) -> StoreProgram[Sequence[int]]:
        """Return when the item's namespace and the item itself were first written."""
        entries = yield StoreOp.kv(self._items, "get_many", (key,))
        if entries:
            return _order(entries[0])
        now = next(_moments)
        prefix = _key(namespace, "")
        neighbours = yield StoreOp.kv(self._items, "list", prefix, limit=1)
        return (_order(neighbours[0])[0] if neighbours else now, now)

    def _search(self, op: SearchOp) -> StoreProgram[list[SearchItem]]:
        prefix = _prefix(op.namespace_prefix)
        entries = yield StoreOp.kv(self._items, "list", prefix)
        abouts = {
            entry.key: about
            for entry in _in_order(entries)
            if fits((about := self._about(entry))["value"], op.filter or {})
        }
        scores: Mapping[str, float] = {}
        keys = list(abouts)
        if op.query and self.index_config is not None:
            versions = {entry.key: json.loads(entry.value).get("version") for entry in entries}
            scores = yield from self._scores(op.query, prefix, versions)
            keys = ranked(scores, keys)
        chosen = keys[op.offset : op.offset + op.limit]
        if op.refresh_ttl:
            yield from self._refresh([entry for entry in entries if entry.key in chosen])
        return [SearchItem(**abouts[key], score=scores.get(key)) for key in chosen]

    def _scores(
        self, query: str, prefix: str, versions: Mapping[str, Any]
    ) -> StoreProgram[dict[str, float]]:
        wanted = yield self._embed_query(query)
        wanted = wanted if self.embeddings else wanted[0]
        entries = yield StoreOp.kv(self._vectors, "list", prefix)
        kept = {entry.key: _vectors_of(entry, versions.get(entry.key)) for entry in entries}
        return {key: nearness(wanted, vectors) for key, vectors in kept.items() if vectors}

    def _refresh(self, entries: Sequence[Any]) -> StoreProgram[None]:
        """Restart the time to live of entries that expire."""
        for entry in entries:
            if (ttl := json.loads(entry.value)["ttl"]) is not None:
                for namespace in (self._items, self._vectors):
                    yield StoreOp.kv(namespace, "touch", (entry.key,), ttl_s=ttl * _MINUTE)

    def _list(self, op: ListNamespacesOp) -> StoreProgram[list[Namespace]]:
        entries = yield StoreOp.kv(self._items, "list", with_values=False)
        spaces = {_parts(entry.key)[0] for entry in entries}
        conditions = op.match_conditions or ()
        fitting = [s for s in spaces if all(matches(one, s) for one in conditions)]
        if op.max_depth is not None:
            fitting = list({space[: op.max_depth] for space in fitting})
        return sorted(fitting)[op.offset : op.offset + op.limit]

    # --- vectors ------------------------------------------------------------------------------

    def _texts(self, op: PutOp) -> list[str]:
        """Return the texts of an item that are embedded."""
        if self.index_config is None or op.index is False or op.value is None:
            return []
        paths = (self.index_config.get("fields") or ["$"]) if op.index is None else op.index
        return [text for path in paths for text in _texts_at(op.value, path)]

    def _embed(self, texts: list[str]) -> StoreOp:
        if self.embeddings is None:
            return StoreOp.llm("embed", texts)
        return StoreOp(lambda _: self.embeddings, "embed_documents", (texts,))

    def _embed_query(self, query: str) -> StoreOp:
        if self.embeddings is None:
            return StoreOp.llm("embed", [query])
        return StoreOp(lambda _: self.embeddings, "embed_query", (query,))

    def _require_dims(self, vectors: Sequence[Vector]) -> None:
        """Warn of vectors with another length than configured; LangGraph accepts them too."""
        dims = (self.index_config or {}).get("dims")
        if vectors and dims and len(vectors[0]) != dims:
            give_notice(
                log,
                (__name__, self._items, dims),
                f"index: dims is {dims}, but the embedder returned vectors of "
                f"{len(vectors[0])} numbers",
            )

    # --- items --------------------------------------------------------------------------------

    def _about(self, entry: Any) -> dict[str, Any]:
        namespace, key = _parts(entry.key)
        return {
            "namespace": namespace,
            "key": key,
            "value": load_value(json.loads(entry.value)["value"], self._serde),
            "created_at": datetime.fromtimestamp(entry.created_at, UTC),
            "updated_at": datetime.fromtimestamp(entry.updated_at, UTC),
        }


def _index_config(index: IndexConfig | Sequence[str] | None) -> IndexConfig | None:
    if index is None:
        return None
    if isinstance(index, Mapping):
        return index.copy()
    if isinstance(index, str):
        raise InvalidRequest(
            f"index: got {index!r}; allowed: LangGraph's IndexConfig, or a list of field paths"
        )
    return IndexConfig(fields=list(index))


def _texts_at(value: Mapping[str, Any], path: str) -> list[str]:
    tokens = path if path == "$" else tokenize_path(path)
    with suppress(TypeError):
        return get_text_at_path(value, tokens)
    plain = json.loads(json.dumps(value, default=str, skipkeys=True))  # JSON has no dates
    return get_text_at_path(plain, tokens)


def _vectors_of(entry: Any, version: Any) -> Sequence[Vector]:
    """Return the vectors of an item, unless they belong to an earlier version of it."""
    kept = json.loads(entry.value)
    if isinstance(kept, list):  # written by a release that stored no version
        return kept
    return kept["vectors"] if kept["version"] == version else ()


def _order(entry: Any) -> Sequence[int]:
    """Return when an item's namespace and the item were first written, in nanoseconds."""
    first = int(entry.created_at * 1e9)
    order: Sequence[int] = json.loads(entry.value).get("order") or (first, first)
    return order


def _in_order(entries: Sequence[Any]) -> list[Any]:
    """Sort items as LangGraph's store in memory does: in the order of their first write."""
    orders = {entry.key: _order(entry) for entry in entries}
    spaces: dict[Namespace, int] = {}
    for key, (space, _) in orders.items():
        name = _parts(key)[0]
        spaces[name] = min(space, spaces.get(name, space))
    return sorted(entries, key=lambda one: (spaces[_parts(one.key)[0]], orders[one.key][1]))


# --- keys: labels with slashes, then two of them, then the item's own -----------------------------


def _key(namespace: Namespace, key: str) -> str:
    return f"{_prefix(namespace)}/{quote(key, safe='')}"


def _prefix(namespace: Namespace) -> str:
    return "".join(f"{quote(label, safe='')}/" for label in namespace)


def _parts(key: str) -> tuple[Namespace, str]:
    labels, _, own = key.rpartition("//")
    return tuple(unquote(label) for label in labels.split("/")), unquote(own)
