"""Two agents of one kernel, and a plausible instance of every request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from aios_core import (
    Agent,
    Kernel,
)
from aios_core.permissions import Access, Resource, Right
from aios_core.syscalls import Request

Boot = Callable[..., Any]
ALICE, BOB = "default/alice", "default/bob"


async def two(kernel: Kernel) -> tuple[Agent, Agent]:
    return await kernel.aspawn("alice"), await kernel.aspawn("bob")


def all_requests(kernel: Kernel) -> list[type[Request[Any]]]:
    return [kind for manager in kernel._inside.parts.traps.managers for kind in manager.requests]


VALUES: dict[str, Any] = {
    "collection": "c",
    "path": "/a.txt",
    "target": "/b.txt",
    "to": "/b.txt",
    "block": "b",
    "name": "n",
    "thread": "t",
    "namespace": "n",
    "snapshot": "s",
    "value": "v",
    "content": b"v",
    "query": "q",
    "text": "v",
    "keys": ("k",),
    "messages": ({"role": "user"},),
    "version": 1,
    "source": "tools.py",
    "call_id": "0123",
    "took_effect": True,
    "reference": "result:0123",
    "operation": "order a book",
    "texts": ("t",),
    "resource": Resource("memory", ALICE, "b"),
    "wanted": Access("memory.read", Right.READ, Resource("memory", ALICE, "b")),
}


def some_request(kind: type[Request[Any]], **given: Any) -> Request[Any]:
    """Build a request with plausible values; unknown fields keep their defaults."""
    names = {field.name for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    values = {name: value for name, value in VALUES.items() if name in names}
    if kind.kind == "memory.kv_put":
        values["items"] = {"k": "v"}
    if kind.kind.startswith("access."):
        values["to"] = "*"
        values = {name: value for name, value in values.items() if name in names}
    return kind(**values, **given)
