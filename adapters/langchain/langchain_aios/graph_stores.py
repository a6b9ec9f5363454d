"""`AIOSGraphStore`: LangGraph's long-term store, kept in an agent's memory.

    graph.compile(store=AIOSGraphStore(index=["text"]))

Items are durable when `put` returns and may expire. With `index` the named fields are
embedded by the kernel's embedder, and `search(query=...)` ranks by meaning. Filters and
namespaces are LangGraph's.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
    tokenize_path,
)

from aios_core import Agent, Kernel
from aios_core.adapting import Ask, Home, Script
from aios_core.errors import InvalidRequest

Namespace = tuple[str, ...]
Vector = Sequence[float]

_MINUTE: Final = 60.0
_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class AIOSGraphStore(BaseStore):
    """Items by namespace and key.

    Args:
        name: keeps stores of one agent apart.
        agent: whose memory it is: a name, or an agent of the kernel.
        kernel: None for the embedded kernel of this process.
        group: of an agent that is spawned by its name.
        index: paths of the fields to embed ("$" is all); None: nothing, queries do not rank.
        ttl: LangGraph's configuration of expiry, in minutes.
    """

    supports_ttl = True

    def __init__(
        self,
        name: str = "store",
        *,
        agent: str | Agent = "langgraph",
        kernel: Kernel | None = None,
        group: str | None = None,
        index: Sequence[str] | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        self._items = f"langgraph/{name}/items"
        self._vectors = f"langgraph/{name}/vectors"
        self._home = Home(agent, kernel, group)
        self._index = index
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations: reads see what was there before, the writes come last."""
        return self._home.run(self._batch(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The same on an event loop."""
        return await self._home.arun(self._batch(list(ops)))

    # --- scripts ------------------------------------------------------------------------------

    def _batch(self, ops: Sequence[Op]) -> Script[list[Result]]:
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
        for key, put in puts.items():
            yield from self._put(key, put)
        return results

    def _get(self, op: GetOp) -> Script[Item | None]:
        entries = yield Ask.kv(self._items, "get_many", (_key(op.namespace, op.key),))
        if not entries:
            return None
        if op.refresh_ttl:
            yield from self._refresh(entries)
        return _item(entries[0])

    def _put(self, key: str, op: PutOp) -> Script[None]:
        if op.value is None:
            yield Ask.kv(self._items, "delete", key)
            yield Ask.kv(self._vectors, "delete", key)
            return
        body = json.dumps({"value": op.value, "ttl": op.ttl}, ensure_ascii=False)
        ttl_s = None if op.ttl is None else op.ttl * _MINUTE
        texts = self._texts(op)
        vectors = (yield Ask.llm("embed", texts)) if texts else ()
        yield Ask.kv(self._items, "put", {key: body}, ttl_s=ttl_s)
        kept = json.dumps([list(vector) for vector in vectors]) if vectors else None
        yield Ask.kv(self._vectors, "put", {key: kept}, ttl_s=ttl_s)

    def _texts(self, op: PutOp) -> list[str]:
        """What of an item is embedded."""
        if self._index is None or op.index is False or op.value is None:
            return []
        paths = self._index if op.index is None else op.index
        return [
            text
            for path in paths
            for text in get_text_at_path(op.value, path if path == "$" else tokenize_path(path))
        ]

    def _search(self, op: SearchOp) -> Script[list[SearchItem]]:
        prefix = _prefix(op.namespace_prefix)
        entries = yield Ask.kv(self._items, "list", prefix)
        found = [(e.key, e) for e in entries if _fits(_value(e), op.filter or {})]
        scores: dict[str, float] = {}
        if op.query and self._index is not None:
            (wanted,) = yield Ask.llm("embed", [op.query])
            kept = yield Ask.kv(self._vectors, "list", prefix)
            scores = {e.key: max(_dots(wanted, json.loads(e.value))) for e in kept}
            found.sort(key=lambda one: -scores.get(one[0], float("-inf")))
        chosen = found[op.offset : op.offset + op.limit]
        if op.refresh_ttl:
            yield from self._refresh([entry for _, entry in chosen])
        return [_search_item(entry, scores.get(key)) for key, entry in chosen]

    def _refresh(self, entries: Sequence[Any]) -> Script[None]:
        """Let the time of those that expire begin anew."""
        for entry in entries:
            if (ttl := json.loads(entry.value)["ttl"]) is not None:
                ttl_s = ttl * _MINUTE
                yield Ask.kv(self._items, "put", {entry.key: entry.value}, ttl_s=ttl_s)
                if (vectors := (yield Ask.kv(self._vectors, "get", entry.key))) is not None:
                    yield Ask.kv(self._vectors, "put", {entry.key: vectors}, ttl_s=ttl_s)

    def _list(self, op: ListNamespacesOp) -> Script[list[Namespace]]:
        entries = yield Ask.kv(self._items, "list", with_values=False)
        spaces = {_parts(entry.key)[0] for entry in entries}
        conditions = op.match_conditions or ()
        fitting = [s for s in spaces if all(_matches(one, s) for one in conditions)]
        if op.max_depth is not None:
            fitting = list({space[: op.max_depth] for space in fitting})
        return sorted(fitting)[op.offset : op.offset + op.limit]


# --- keys: labels with slashes, then two of them, then the item's own -----------------------------


def _key(namespace: Namespace, key: str) -> str:
    return f"{_prefix(namespace)}/{quote(key, safe='')}"


def _prefix(namespace: Namespace) -> str:
    return "".join(f"{quote(label, safe='')}/" for label in namespace)


def _parts(key: str) -> tuple[Namespace, str]:
    labels, _, own = key.rpartition("//")
    return tuple(unquote(label) for label in labels.split("/")), unquote(own)


# --- items ----------------------------------------------------------------------------------------


def _value(entry: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(entry.value)["value"]
    return value


def _about(entry: Any) -> dict[str, Any]:
    namespace, key = _parts(entry.key)
    return {
        "namespace": namespace,
        "key": key,
        "value": _value(entry),
        "created_at": datetime.fromtimestamp(entry.created_at, UTC),
        "updated_at": datetime.fromtimestamp(entry.updated_at, UTC),
    }


def _item(entry: Any) -> Item:
    return Item(**_about(entry))


def _search_item(entry: Any, score: float | None) -> SearchItem:
    return SearchItem(**_about(entry), score=score)


def _dots(wanted: Vector, vectors: Sequence[Vector]) -> list[float]:
    """Cosines: the kernel's vectors have length 1."""
    return [sum(a * b for a, b in zip(wanted, vector, strict=True)) for vector in vectors]


def _fits(value: Any, wanted: Any) -> bool:
    """Whether an item has the wanted values, or ones that compare as wanted."""
    if isinstance(wanted, Mapping):
        if any(str(key).startswith("$") for key in wanted):
            return all(_compares(value, name, bound) for name, bound in wanted.items())
        return isinstance(value, Mapping) and all(
            _fits(value.get(key), part) for key, part in wanted.items()
        )
    return bool(value == wanted)


def _compares(value: Any, name: str, bound: Any) -> bool:
    if name not in _OPERATORS:
        raise InvalidRequest(f"filter: no operator {name!r}; have {sorted(_OPERATORS)}")
    if name in ("$eq", "$ne"):
        return _OPERATORS[name](value, bound)
    try:
        return value is not None and _OPERATORS[name](value, bound)
    except TypeError:
        return False


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    path = condition.path
    if len(path) > len(namespace):
        return False
    is_prefix = condition.match_type == "prefix"
    part = namespace[: len(path)] if is_prefix else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))
