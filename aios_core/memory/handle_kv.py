"""One key-value namespace, in the hands of its developer: `agent.memory.kv("settings")`.

Values are texts or bytes, keys texts in the order of their code points. Errors are those of
`aios_core.memory.handle`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aios_core.checking import require_items, require_text
from aios_core.manager import Port
from aios_core.memory.kv import Listing
from aios_core.memory.kv_requests import (
    KeyValueClear,
    KeyValueGet,
    KeyValueList,
    KeyValuePut,
    KeyValueSweep,
    KeyValueTouch,
)
from aios_core.memory.records import KeyValue, Value


@dataclass(frozen=True, slots=True)
class KeyValues:
    """See the module."""

    _port: Port
    namespace: str
    owner: str | None = None

    def get(self, key: str) -> Value | None:
        """The value of a key; None if it is not there."""
        return next((entry.value for entry in self.get_many((key,))), None)

    async def aget(self, key: str) -> Value | None:
        """The value of a key; None if it is not there."""
        return next((entry.value for entry in await self.aget_many((key,))), None)

    def get_many(self, keys: Iterable[str]) -> tuple[KeyValue, ...]:
        """The entries of those keys that are there, in the order asked for, of one instant."""
        chosen = tuple(require_items("keys", keys))
        return self._port.call(KeyValueGet(self.namespace, chosen, owner=self.owner))

    async def aget_many(self, keys: Iterable[str]) -> tuple[KeyValue, ...]:
        """The entries of those keys that are there, in the order asked for, of one instant."""
        chosen = tuple(require_items("keys", keys))
        return await self._port.acall(KeyValueGet(self.namespace, chosen, owner=self.owner))

    def set(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        """Set a key, for `ttl_s` seconds or until it is removed."""
        self.put({require_text("key", key): value}, ttl_s=ttl_s)

    async def aset(self, key: str, value: Value, *, ttl_s: float | None = None) -> None:
        """Set a key, for `ttl_s` seconds or until it is removed."""
        await self.aput({require_text("key", key): value}, ttl_s=ttl_s)

    def put(self, items: Mapping[str, Value | None], *, ttl_s: float | None = None) -> None:
        """Set keys, and remove those whose value is None: all of them, or none."""
        self._port.call(KeyValuePut(self.namespace, items, ttl_s, owner=self.owner))

    async def aput(self, items: Mapping[str, Value | None], *, ttl_s: float | None = None) -> None:
        """Set keys, and remove those whose value is None: all of them, or none."""
        await self._port.acall(KeyValuePut(self.namespace, items, ttl_s, owner=self.owner))

    def delete(self, *keys: str) -> None:
        """Remove keys, all or none; those that are not there are ignored."""
        self.put({require_text("key", key): None for key in keys})

    async def adelete(self, *keys: str) -> None:
        """Remove keys, all or none; those that are not there are ignored."""
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
        """Entries whose keys begin so, in the order of their keys.

        Args:
            prefix: of the keys.
            after: begin behind this key, as the last one of the page before.
            limit: at most so many.
            is_reversed: the opposite order.
            with_values: False leaves `value` None, and reads less.
        """
        listing = Listing(prefix, after, limit, is_reversed, with_values)
        return self._port.call(KeyValueList(self.namespace, listing, owner=self.owner))

    async def alist(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
        is_reversed: bool = False,
        with_values: bool = True,
    ) -> tuple[KeyValue, ...]:
        """Entries whose keys begin so; see `list`."""
        listing = Listing(prefix, after, limit, is_reversed, with_values)
        return await self._port.acall(KeyValueList(self.namespace, listing, owner=self.owner))

    def clear(self, prefix: str = "") -> int:
        """Remove all keys that begin so; how many there were."""
        return self._port.call(KeyValueClear(self.namespace, prefix, owner=self.owner))

    async def aclear(self, prefix: str = "") -> int:
        """Remove all keys that begin so; how many there were."""
        return await self._port.acall(KeyValueClear(self.namespace, prefix, owner=self.owner))

    def touch(self, keys: Iterable[str] | None = None, *, prefix: str = "", ttl_s: float) -> int:
        """Restart the time to live of entries that expire. Returns how many there were.

        Args:
            keys: of the entries; None: all that begin with the prefix.
            prefix: of the keys, where none are named.
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
