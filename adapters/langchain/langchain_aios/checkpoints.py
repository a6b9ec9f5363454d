"""`AIOSSaver`: LangGraph's checkpointer, kept in an agent's memory.

    graph.compile(checkpointer=AIOSSaver())

A checkpoint is durable when `put` returns: after kill -9 the graph goes on from it.
Both halves, synchronous and asynchronous, are the same scripts. Two namespaces hold
it all:

    <name>/checkpoints   thread / namespace / checkpoint id            -> the checkpoint
    <name>/writes        thread / namespace / checkpoint id / task / n -> one pending write

Ids are ordered by time, and keys are ordered by text: the latest is the last.
Values go through LangGraph's serializer (`serde`), which decides what may be built
when they are read.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from aios_core import Agent, Kernel
from aios_core.adapting import Ask, Home, Script

_PAGE: Final = 64  # checkpoints that a listing reads at once
_SHIFT: Final = 1_000_000  # special writes have negative numbers; keys have none


class AIOSSaver(BaseCheckpointSaver[str]):
    """Checkpoints of graphs.

    Args:
        namespace: keeps savers of one agent apart.
        agent: whose memory it is: a name, or an agent of the kernel.
        kernel: None for the embedded kernel of this process.
        group: of an agent that is spawned by its name.
        serde: LangGraph's serializer; None for its own default.
    """

    def __init__(
        self,
        namespace: str = "langgraph",
        *,
        agent: str | Agent = "langgraph",
        kernel: Kernel | None = None,
        group: str | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self._home = Home(agent, kernel, group)
        self._checkpoints = f"{namespace}/checkpoints"
        self._writes = f"{namespace}/writes"

    # --- reading ------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that a config names, or the latest of its thread."""
        return self._home.run(self._get(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The same on an event loop."""
        return await self._home.arun(self._get(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, the newest of each thread first."""
        yield from self._home.run(self._list(config, filter, before, limit))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The same on an event loop."""
        for found in await self._home.arun(self._list(config, filter, before, limit)):
            yield found

    # --- writing ------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint; the config that names it."""
        del new_versions
        return self._home.run(self._put(config, checkpoint, metadata))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """The same on an event loop."""
        del new_versions
        return await self._home.arun(self._put(config, checkpoint, metadata))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Keep what a task wrote before its step was complete. Repeats change nothing."""
        self._home.run(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """The same on an event loop."""
        await self._home.arun(self._put_writes(config, writes, task_id, task_path))

    # --- forgetting and copying ---------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Forget all checkpoints of a thread."""
        self._home.run(self._delete_thread(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """The same on an event loop."""
        await self._home.arun(self._delete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Forget the checkpoints that these runs made."""
        self._home.run(self._delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """The same on an event loop."""
        await self._home.arun(self._delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another one."""
        self._home.run(self._copy_thread(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """The same on an event loop."""
        await self._home.arun(self._copy_thread(source_thread_id, target_thread_id))

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: Literal["keep_latest", "delete"] | str = "keep_latest",  # noqa: PYI051
    ) -> None:
        """Keep only the latest checkpoint of each namespace, or none."""
        self._home.run(self._prune(thread_ids, strategy))

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: Literal["keep_latest", "delete"] | str = "keep_latest",  # noqa: PYI051
    ) -> None:
        """The same on an event loop."""
        await self._home.arun(self._prune(thread_ids, strategy))

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Versions are ordered texts."""
        del channel
        number = 0 if current is None else int(str(current).partition(".")[0])
        return f"{number + 1:032}"

    # --- scripts ------------------------------------------------------------------------------

    def _get(self, config: RunnableConfig) -> Script[CheckpointTuple | None]:
        if checkpoint_id := get_checkpoint_id(config):
            key = _key(_thread(config), _namespace(config), checkpoint_id)
            entries = yield Ask.kv(self._checkpoints, "get_many", (key,))
        else:
            prefix = _key(_thread(config), _namespace(config), "")
            entries = yield Ask.kv(self._checkpoints, "list", prefix, limit=1, is_reversed=True)
        if not entries:
            return None
        return (yield from self._tuple(entries[0].key, entries[0].value))

    def _list(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Script[Sequence[CheckpointTuple]]:
        prefix = _prefix(config)
        only = get_checkpoint_id(config) if config else None
        until = get_checkpoint_id(before) if before else None
        found: list[CheckpointTuple] = []
        after: str | None = None
        while limit is None or len(found) < limit:
            entries = yield Ask.kv(
                self._checkpoints, "list", prefix, after=after, limit=_PAGE, is_reversed=True
            )
            for entry in entries:
                checkpoint_id = _parts(entry.key)[2]
                if (only and checkpoint_id != only) or (until and checkpoint_id >= until):
                    continue
                metadata = self._metadata(entry.value)
                if wanted and any(metadata.get(key) != value for key, value in wanted.items()):
                    continue
                found.append((yield from self._tuple(entry.key, entry.value)))
                if len(found) == limit:
                    break
            if len(entries) < _PAGE:
                break
            after = entries[-1].key
        return found

    def _put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> Script[RunnableConfig]:
        thread_id, namespace = _thread(config), _namespace(config)
        packed = _pack(
            {
                "checkpoint": self.serde.dumps_typed(checkpoint),
                "metadata": self.serde.dumps_typed(get_checkpoint_metadata(config, metadata)),
            },
            {"parent": get_checkpoint_id(config)},
        )
        key = _key(thread_id, namespace, checkpoint["id"])
        yield Ask.kv(self._checkpoints, "set", key, packed)
        return _config(thread_id, namespace, checkpoint["id"])

    def _put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Script[None]:
        checkpoint_id = config["configurable"]["checkpoint_id"]
        prefix = _key(_thread(config), _namespace(config), checkpoint_id)
        items = {}
        for position, (channel, value) in enumerate(writes):
            number = WRITES_IDX_MAP.get(channel, position)
            key = f"{prefix}/{quote(task_id, safe='')}/{number + _SHIFT:07}"
            about = {"task": task_id, "channel": channel, "path": task_path, "number": number}
            items[key] = _pack({"value": self.serde.dumps_typed(value)}, about)
        if ordinary := [key for key in items if int(key[-7:]) >= _SHIFT]:
            known = yield Ask.kv(self._writes, "get_many", ordinary)
            for entry in known:
                del items[entry.key]
        if items:
            yield Ask.kv(self._writes, "put", items)

    def _delete_thread(self, thread_id: str) -> Script[None]:
        prefix = f"{quote(str(thread_id), safe='')}/"
        yield Ask.kv(self._checkpoints, "clear", prefix)
        yield Ask.kv(self._writes, "clear", prefix)

    def _delete_for_runs(self, run_ids: Sequence[str]) -> Script[None]:
        runs = set(map(str, run_ids))
        entries = yield Ask.kv(self._checkpoints, "list")
        gone = [e.key for e in entries if str(self._metadata(e.value).get("run_id")) in runs]
        yield from self._forget(gone)

    def _copy_thread(self, source: str, target: str) -> Script[None]:
        old, new = (f"{quote(str(name), safe='')}/" for name in (source, target))
        for namespace in (self._writes, self._checkpoints):
            entries = yield Ask.kv(namespace, "list", old)
            if entries:
                copies = {new + entry.key.removeprefix(old): entry.value for entry in entries}
                yield Ask.kv(namespace, "put", copies)

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> Script[None]:
        for thread_id in thread_ids:
            if strategy == "delete":
                yield from self._delete_thread(thread_id)
                continue
            if strategy != "keep_latest":
                raise ValueError(f"strategy: got {strategy!r}; allowed: 'keep_latest', 'delete'")
            prefix = f"{quote(str(thread_id), safe='')}/"
            entries = yield Ask.kv(self._checkpoints, "list", prefix, with_values=False)
            latest = {entry.key.rpartition("/")[0]: entry.key for entry in entries}
            yield from self._forget([e.key for e in entries if e.key not in latest.values()])

    def _forget(self, keys: Sequence[str]) -> Script[None]:
        """Checkpoints, with what was written after them."""
        if keys:
            yield Ask.kv(self._checkpoints, "delete", *keys)
        for key in keys:
            yield Ask.kv(self._writes, "clear", f"{key}/")

    # --- values -------------------------------------------------------------------------------

    def _tuple(self, key: str, value: Any) -> Script[CheckpointTuple]:
        thread_id, namespace, checkpoint_id = _parts(key)
        entries = yield Ask.kv(self._writes, "list", f"{key}/")
        parts, about = _unpack(value)
        parent = about["parent"]
        return CheckpointTuple(
            config=_config(thread_id, namespace, checkpoint_id),
            checkpoint=self.serde.loads_typed(parts["checkpoint"]),
            metadata=self.serde.loads_typed(parts["metadata"]),
            parent_config=_config(thread_id, namespace, parent) if parent else None,
            pending_writes=[self._write(entry.value) for entry in sorted(entries, key=_place)],
        )

    def _metadata(self, value: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.serde.loads_typed(_unpack(value)[0]["metadata"])
        return found

    def _write(self, value: Any) -> tuple[str, str, Any]:
        parts, about = _unpack(value)
        return about["task"], about["channel"], self.serde.loads_typed(parts["value"])


def _place(entry: Any) -> tuple[str, str, int]:
    """The order of pending writes: by the task's path, its id, and the write's number."""
    about = _unpack(entry.value)[1]
    return about["path"], about["task"], about["number"]


# --- keys --------------------------------------------------------------------------------------


def _thread(config: RunnableConfig) -> str:
    return str(config["configurable"]["thread_id"])


def _namespace(config: RunnableConfig) -> str:
    return str(config["configurable"].get("checkpoint_ns", ""))


def _key(thread_id: str, namespace: str, checkpoint_id: str) -> str:
    return "/".join(quote(part, safe="") for part in (thread_id, namespace, checkpoint_id))


def _prefix(config: RunnableConfig | None) -> str:
    """Of the keys that a listing looks at."""
    if config is None or "thread_id" not in config["configurable"]:
        return ""
    if "checkpoint_ns" in config["configurable"]:
        return _key(_thread(config), _namespace(config), "")
    return f"{quote(_thread(config), safe='')}/"


def _parts(key: str) -> tuple[str, str, str]:
    thread_id, namespace, checkpoint_id = map(unquote, key.split("/"))
    return thread_id, namespace, checkpoint_id


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


# --- what is stored: a line of JSON, then the parts' bytes ---------------------------------------


def _pack(parts: Mapping[str, tuple[str, bytes]], about: Mapping[str, Any]) -> bytes:
    sizes = {name: [kind, len(data)] for name, (kind, data) in parts.items()}
    head = json.dumps({"parts": sizes, "about": about}, ensure_ascii=False).encode()
    return head + b"\n" + b"".join(data for _, data in parts.values())


def _unpack(value: bytes) -> tuple[dict[str, tuple[str, bytes]], dict[str, Any]]:
    head, _, body = value.partition(b"\n")
    said = json.loads(head)
    parts, at = {}, 0
    for name, (kind, size) in said["parts"].items():
        parts[name] = (kind, body[at : at + size])
        at += size
    return parts, said["about"]
