"""The requests for key-value namespaces, and the access that each of them needs.

In grants, a namespace is named `kv:NAME`. Setting and removing keys counts as normal use;
only clearing a namespace is marked irreversible for the access check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from aios_core.errors import InvalidRequest
from aios_core.memory.kv import KeyRange
from aios_core.memory.naming import (
    NAMESPACE,
    require_count,
    require_name,
    require_owner,
    require_text,
)
from aios_core.memory.records import Content, KeyValue, Value
from aios_core.memory.requests import KIND
from aios_core.messages import require_items, require_number
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request
from aios_core.untrusted.arguments import require_mapping

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _NamespaceRequest(Request[T]):
    """A request about one namespace."""

    right: ClassVar[Right] = Right.READ
    namespace: str
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_name("namespace", self.namespace)
        require_owner(self.owner)

    def arguments(self) -> Mapping[str, Any]:
        """Return the other arguments of the request, as plain JSON values, for the access check."""
        return {}

    def irreversible(self) -> str | None:
        """Return why the request cannot be undone; None: it can, or it is normal use of keys."""
        return None

    def access(self, identity: str) -> Access:
        """Return the access to the namespace that the request needs."""
        resource = Resource(KIND, self.owner or identity, NAMESPACE + self.namespace)
        return Access(self.kind, self.right, resource, self.arguments(), self.irreversible())


@dataclass(frozen=True, slots=True)
class KeyValueGet(_NamespaceRequest[tuple[KeyValue, ...]]):
    """Read the entries of the keys that exist, in the given order."""

    kind: ClassVar[str] = "memory.kv_get"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_name("namespace", self.namespace)
        require_owner(self.owner)
        for key in require_items("keys", self.keys):
            require_name("key", key)

    def arguments(self) -> Mapping[str, Any]:
        return {"keys": list(self.keys)}


@dataclass(frozen=True, slots=True)
class KeyValuePut(_NamespaceRequest[None]):
    """Set several keys in one transaction, and remove the keys with the value None.

    Keys expire after `ttl_s` seconds; None: never. Setting a key again keeps its time of
    creation.
    """

    kind: ClassVar[str] = "memory.kv_put"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    items: Mapping[str, Value | None] = field(default_factory=dict)
    ttl_s: float | None = None
    contents: Mapping[str, Content | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_name("namespace", self.namespace)
        require_owner(self.owner)
        require_number("ttl_s", self.ttl_s, at_least=0)
        contents = {
            require_name("key", key): None if value is None else Content.of(value)
            for key, value in require_mapping("items", self.items).items()
        }
        object.__setattr__(self, "contents", contents)

    def arguments(self) -> Mapping[str, Any]:
        items = {
            key: None if content is None else content.fingerprint()
            for key, content in self.contents.items()
        }
        return {"items": items, "ttl_s": self.ttl_s}


@dataclass(frozen=True, slots=True)
class KeyValueList(_NamespaceRequest[tuple[KeyValue, ...]]):
    """List entries, sorted by key in ascending or descending order."""

    kind: ClassVar[str] = "memory.kv_list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    key_range: KeyRange = field(default_factory=KeyRange)

    def __post_init__(self) -> None:
        require_name("namespace", self.namespace)
        require_owner(self.owner)
        require_text("prefix", self.key_range.prefix)
        require_count("limit", self.key_range.limit, at_least=0)
        if self.key_range.after is not None:
            require_text("after", self.key_range.after)

    def arguments(self) -> Mapping[str, Any]:
        key_range = self.key_range
        return {
            "prefix": key_range.prefix,
            "after": key_range.after,
            "limit": key_range.limit,
            "is_reversed": key_range.is_reversed,
            "with_values": key_range.with_values,
        }


@dataclass(frozen=True, slots=True)
class KeyValueClear(_NamespaceRequest[int]):
    """Remove all keys that start with `prefix`. Returns how many there were."""

    kind: ClassVar[str] = "memory.kv_clear"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    prefix: str = ""

    def __post_init__(self) -> None:
        require_name("namespace", self.namespace)
        require_owner(self.owner)
        require_text("prefix", self.prefix)

    def arguments(self) -> Mapping[str, Any]:
        return {"prefix": self.prefix}

    def irreversible(self) -> str | None:
        return "it removes keys; memory keeps no older versions"


@dataclass(frozen=True, slots=True)
class KeyValueTouch(_NamespaceRequest[int]):
    """Restart the time to live of entries that expire. Returns how many there were.

    Values do not change, nor do entries without an expiry. `keys` None: all keys that start with
    `prefix`.
    """

    kind: ClassVar[str] = "memory.kv_touch"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE
    keys: tuple[str, ...] | None = None
    prefix: str = ""
    ttl_s: float = 0.0

    def __post_init__(self) -> None:
        require_name("namespace", self.namespace)
        require_owner(self.owner)
        require_text("prefix", self.prefix)
        if not isinstance(self.ttl_s, int | float):
            raise InvalidRequest(
                f"ttl_s: got {shown_repr(self.ttl_s)}; allowed: a number, at least 0"
            )
        require_number("ttl_s", self.ttl_s, at_least=0)
        for key in require_items("keys", () if self.keys is None else self.keys):
            require_name("key", key)

    def arguments(self) -> Mapping[str, Any]:
        keys = None if self.keys is None else list(self.keys)
        return {"keys": keys, "prefix": self.prefix, "ttl_s": self.ttl_s}


@dataclass(frozen=True, slots=True)
class KeyValueSweep(_NamespaceRequest[int]):
    """Remove the expired entries. Returns how many there were."""

    kind: ClassVar[str] = "memory.kv_sweep"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    right: ClassVar[Right] = Right.WRITE


@dataclass(frozen=True, slots=True)
class KeyValueNamespaces(Request[tuple[str, ...]]):
    """List the names of the non-empty namespaces that start with `prefix`, sorted."""

    kind: ClassVar[str] = "memory.kv_namespaces"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    prefix: str = ""
    owner: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_text("prefix", self.prefix)
        require_owner(self.owner)

    def access(self, identity: str) -> Access:
        """Return the access to all of the owner's memory."""
        resource = Resource(KIND, self.owner or identity)
        return Access(self.kind, Right.READ, resource, {"prefix": self.prefix})
