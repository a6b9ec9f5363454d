"""A key-value namespace of an agent's memory: `agent.memory.kv("settings")`.

Values are texts or bytes. Keys are texts, sorted by code points. The errors that every method
can raise are listed in `aios_core.memory.handle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aios_core.manager import Port
from aios_core.memory.kv import KeyRange
from aios_core.memory.kv_requests import (
    KeyValueClear,
    KeyValueGet,
    KeyValueList,
    KeyValuePut,
    KeyValueSweep,
    KeyValueTouch,
)
from aios_core.memory.records import KeyValue, Value
from aios_core.untrusted.arguments import require_items, require_text


@dataclass(frozen=True, slots=True)
class KeyValues:
    """One key-value namespace: reads, sets, lists and expires its entries."""

    _port: Port
    namespace: str
    owner: str | None = None

    def get(self, key: str) -> Value | None:
        """Return the value of a key, or None if there is no such key."""
        return next((entry.value for entry in self.get_many((key,))), None)

    async def aget(self, key: str) -> Value | None:
        """Return the value of a key, or None if there is no such key."""
        return next((entry.value for entry in await self.aget_many((key,))), None)

    def get_many(self, keys: Iterable[str]) -> tuple[KeyValue, ...]:
        """Return the entries of the keys that exist, in the given order, from one snapshot."""
        chosen = tuple(require_items("keys", keys))
        return self._port.call(KeyValueGet(self.namespace, chosen, owner=self.owner))

    async def aget_many(self, keys: Iterable[str]) -> tuple[KeyValue, ...]:
        """Return the entries of the keys that exist, in the given order, from one snapshot."""
        chosen = tuple(require_items("keys", keys))
        return await self._port.acall(KeyValueGet(self.namespace, chosen, owner=self.owner))

    def set(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        """Set a key. It expires after `ttl_s` seconds; None: never."""
        self.put({require_text("key", key): value}, ttl_s=ttl_s)

    async def aset(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        """Set a key. It expires after `ttl_s` seconds; None: never."""
        await self.aput({require_text("key", key): value}, ttl_s=ttl_s)

    def put(self, items: Mapping[str, Value | None], *, ttl_s: float | None = None) -> None:
        """Set several keys in one transaction, and remove the keys with the value None."""
        self._port.call(KeyValuePut(self.namespace, items, ttl_s, owner=self.owner))

    async def aput(self, items: Mapping[str, Value | None], *, ttl_s: float | None = None) -> None:
        """Set several keys in one transaction, and remove the keys with the value None."""
        await self._port.acall(KeyValuePut(self.namespace, items, ttl_s, owner=self.owner))

    def delete(self, *keys: str) -> None:
        """Remove keys in one transaction. Keys that do not exist are ignored."""
        self.put({require_text("key", key): None for key in keys})

    async def adelete(self, *keys: str) -> None:
        """Remove keys in one transaction. Keys that do not exist are ignored."""
        await self.aput({require_text("key", key): None for key in keys})

    def list(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
        is_reversed: bool = False,
        with_values: bool = True,
    ) -> tuple[KeyValue, ...]:
        """List the entries with keys that start with `prefix`, sorted by key.

        Args:
            prefix: the start of the keys; "" for all entries.
            after: start after this key, such as the last key of the previous page.
            limit: the maximum number of entries; None: all.
            is_reversed: sort in descending order.
            with_values: False leaves `value` None, and reads less.
        """
        key_range = KeyRange(prefix, after, limit, is_reversed, with_values)
        return self._port.call(KeyValueList(self.namespace, key_range, owner=self.owner))

    async def alist(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
        is_reversed: bool = False,
        with_values: bool = True,
    ) -> tuple[KeyValue, ...]:
        """List the entries with keys that start with `prefix` (async form of `list`)."""
        key_range = KeyRange(prefix, after, limit, is_reversed, with_values)
        return await self._port.acall(KeyValueList(self.namespace, key_range, owner=self.owner))

    def clear(self, prefix: str = "") -> int:
        """Remove all keys that start with `prefix`. Returns how many there were."""
        return self._port.call(KeyValueClear(self.namespace, prefix, owner=self.owner))

    async def aclear(self, prefix: str = "") -> int:
        """Remove all keys that start with `prefix`. Returns how many there were."""
        return await self._port.acall(KeyValueClear(self.namespace, prefix, owner=self.owner))

    def touch(self, keys: Iterable[str] | None = None, *, prefix: str = "", ttl_s: float) -> int:
        """Restart the time to live of entries that expire. Returns how many there were.

        Args:
            keys: the keys of the entries; None: all keys that start with `prefix`.
            prefix: used if `keys` is None; "" for all entries.
            ttl_s: seconds until the entries expire. Entries without expiry are not changed.
        """
        chosen = None if keys is None else tuple(require_items("keys", keys))
        return self._port.call(
            KeyValueTouch(self.namespace, chosen, prefix, ttl_s, owner=self.owner)
        )

    async def atouch(
        self, keys: Iterable[str] | None = None, *, prefix: str = "", ttl_s: float
    ) -> int:
        """Restart the time to live of entries on an event loop (async form of `touch`)."""
        chosen = None if keys is None else tuple(require_items("keys", keys))
        return await self._port.acall(
            KeyValueTouch(self.namespace, chosen, prefix, ttl_s, owner=self.owner)
        )

    def sweep(self) -> int:
        """Remove the expired entries at once. Returns how many there were.

        Writes to the agent's namespaces remove expired entries too, a few at a time.
        """
        return self._port.call(KeyValueSweep(self.namespace, owner=self.owner))

    async def asweep(self) -> int:
        """Remove the expired entries on an event loop (async form of `sweep`)."""
        return await self._port.acall(KeyValueSweep(self.namespace, owner=self.owner))
