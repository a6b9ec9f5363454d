"""Encode checkpoints for an agent's memory: their keys, their order and their bytes.

Pure functions. A key is thread / namespace / checkpoint id, each part quoted; a value is a
line of JSON, followed by the bytes of its parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig

# --- keys --------------------------------------------------------------------------------------


def thread_prefix(thread_id: object) -> str:
    """Return the prefix of all keys of a thread."""
    return f"{quote(str(thread_id), safe='')}/"


def thread_of(config: RunnableConfig) -> str:
    return str(config["configurable"]["thread_id"])


def namespace_of(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))


def key_of(thread_id: str, namespace: str, checkpoint_id: str) -> str:
    return "/".join(quote(part, safe="") for part in (thread_id, namespace, checkpoint_id))


def prefix_of(config: RunnableConfig | None) -> str:
    """Return the prefix of the keys that a listing reads."""
    if config is None or "thread_id" not in config["configurable"]:
        return ""
    if "checkpoint_ns" in config["configurable"]:
        return key_of(thread_of(config), namespace_of(config), "")
    return thread_prefix(thread_of(config))


def parts_of(key: str) -> tuple[str, str, str]:
    thread_id, namespace, checkpoint_id = map(unquote, key.split("/"))
    return thread_id, namespace, checkpoint_id


def config_of(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


def newest_first(entries: Iterable[Any]) -> list[str]:
    """Return the keys of checkpoints in the order of LangGraph's saver in memory.

    Threads, and the namespaces of each, are in the order of their first checkpoint; in a
    namespace, the newest checkpoint comes first.
    """
    first: dict[tuple[str, ...], float] = {}
    keys = []
    for entry in entries:
        thread_id, namespace, _ = parts_of(entry.key)
        for group in ((thread_id,), (thread_id, namespace)):
            first[group] = min(entry.created_at, first.get(group, entry.created_at))
        keys.append(entry.key)
    keys.sort(key=lambda key: parts_of(key)[2], reverse=True)

    def group_of(key: str) -> tuple[Any, ...]:
        thread_id, namespace, _ = parts_of(key)
        return first[(thread_id,)], thread_id, first[(thread_id, namespace)], namespace

    return sorted(keys, key=group_of)


# --- values: a line of JSON, then the bytes of the parts -----------------------------------------


def pack(parts: Mapping[str, tuple[str, bytes]], about: Mapping[str, Any]) -> bytes:
    sizes = {name: [kind, len(data)] for name, (kind, data) in parts.items()}
    head = json.dumps({"parts": sizes, "about": about}, ensure_ascii=False).encode()
    return head + b"\n" + b"".join(data for _, data in parts.values())


def unpack(value: bytes) -> tuple[dict[str, tuple[str, bytes]], dict[str, Any]]:
    head, _, body = value.partition(b"\n")
    said = json.loads(head)
    parts, at = {}, 0
    for name, (kind, size) in said["parts"].items():
        parts[name] = (kind, body[at : at + size])
        at += size
    return parts, said["about"]
