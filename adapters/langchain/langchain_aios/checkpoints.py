"""`AIOSSaver`: LangGraph's checkpointer, kept in an agent's memory.

    graph.compile(checkpointer=AIOSSaver())

A checkpoint is durable when `put` returns: after kill -9 the graph continues from it.
The synchronous and asynchronous methods share their programs. Two namespaces hold
the data:

    <name>/checkpoints   thread / namespace / checkpoint id            -> the checkpoint
    <name>/writes        thread / namespace / checkpoint id / task / n -> one pending write

Ids are ordered by time, and keys are ordered by text: the latest is the last.
Values go through LangGraph's serializer (`serde`), which decides which objects may be built
when they are read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import quote

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
from langgraph.store.base import TTLConfig

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, Kernel
from aios_core.errors import InvalidRequest
from langchain_aios.callers import user_of_saver, user_of_store
from langchain_aios.checkpoint_keys import (
    config_of,
    key_of,
    namespace_of,
    newest_first,
    pack,
    parts_of,
    prefix_of,
    thread_of,
    thread_prefix,
    unpack,
)

_PAGE: Final = 64  # checkpoints that a listing reads at once
_MINUTE: Final = 60.0
_SHIFT: Final = 1_000_000  # special writes have negative numbers; keys have none


class AIOSSaver(BaseCheckpointSaver[str]):
    """A LangGraph checkpointer that keeps checkpoints in an agent's memory.

    Args:
        namespace: separates several savers of one agent.
        agent: the agent that owns the memory: a name, or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
        serde: LangGraph's serializer; None for its own default.
        ttl: LangGraph's configuration of expiry, in minutes: a thread that is not written to (nor
            read, unless `refresh_on_read` is False) for `default_ttl` is removed as a whole.
        max_checkpoints: how many of the newest are kept in each thread and namespace; None: all.
            Those that a kept one is built from (LangGraph's `DeltaChannel`) are kept as well.
    """

    def __init__(
        self,
        namespace: str = "langgraph",
        *,
        agent: str | Agent = "langgraph",
        kernel: Kernel | None = None,
        group: str | None = None,
        serde: SerializerProtocol | None = None,
        ttl: TTLConfig | None = None,
        max_checkpoints: int | None = None,
    ) -> None:
        super().__init__(serde=serde)
        if max_checkpoints is not None and max_checkpoints < 1:
            raise InvalidRequest(f"max_checkpoints: got {max_checkpoints}; allowed: 1 or more")
        self.ttl_config = ttl
        minutes = (ttl or {}).get("default_ttl")
        self._ttl_s = None if minutes is None else minutes * _MINUTE
        self._max_checkpoints = max_checkpoints
        self._store = AgentStore(agent, kernel, group, user_of_store)
        self._checkpoints = f"{namespace}/checkpoints"
        self._writes = f"{namespace}/writes"

    # --- reading ------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or the latest of its thread."""
        return self._store.run(self._get(config), user_of_saver(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint (async form of `get_tuple`)."""
        return await self._store.arun(self._get(config), user_of_saver(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """List checkpoints in the order of `InMemorySaver`: the newest of a thread first."""
        yield from self._store.run(self._list(config, filter, before, limit), user_of_saver(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """List checkpoints (async form of `list`)."""
        for found in await self._store.arun(
            self._list(config, filter, before, limit), user_of_saver(config)
        ):
            yield found

    # --- writing ------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint. Returns the config that names it."""
        del new_versions
        return self._store.run(self._put(config, checkpoint, metadata), user_of_saver(config))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint. Returns the config that names it (async form of `put`)."""
        del new_versions
        return await self._store.arun(
            self._put(config, checkpoint, metadata), user_of_saver(config)
        )

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote before its step was complete. Idempotent."""
        self._store.run(self._put_writes(config, writes, task_id, task_path), user_of_saver(config))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote before its step was complete (async form of `put_writes`)."""
        await self._store.arun(
            self._put_writes(config, writes, task_id, task_path), user_of_saver(config)
        )

    # --- deleting and copying -----------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints of a thread."""
        self._store.run(self._delete_thread(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints of a thread (async form of `delete_thread`)."""
        await self._store.arun(self._delete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs."""
        self._store.run(self._delete_for_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of these runs (async form of `delete_for_runs`)."""
        await self._store.arun(self._delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another one."""
        self._store.run(self._copy_thread(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another one (async form of `copy_thread`)."""
        await self._store.arun(self._copy_thread(source_thread_id, target_thread_id))

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: Literal["keep_latest", "delete"] | str = "keep_latest",  # noqa: PYI051
    ) -> None:
        """Keep only the latest checkpoint of each namespace, or none."""
        self._store.run(self._prune(thread_ids, strategy))

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: Literal["keep_latest", "delete"] | str = "keep_latest",  # noqa: PYI051
    ) -> None:
        """Keep only the latest checkpoint of each namespace, or none (async form of `prune`)."""
        await self._store.arun(self._prune(thread_ids, strategy))

    def sweep_ttl(self) -> int:
        """Remove the checkpoints that have expired. Returns how many there were."""
        return self._store.run(self._sweep())

    async def asweep_ttl(self) -> int:
        """Remove expired checkpoints on an event loop. Returns how many there were."""
        return await self._store.arun(self._sweep())

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return the next version of a channel: a text that sorts after the current one."""
        del channel
        number = 0 if current is None else int(str(current).partition(".")[0])
        return f"{number + 1:032}"

    # --- programs -----------------------------------------------------------------------------

    def _get(self, config: RunnableConfig) -> StoreProgram[CheckpointTuple | None]:
        if checkpoint_id := get_checkpoint_id(config):
            key = key_of(thread_of(config), namespace_of(config), checkpoint_id)
            entries = yield StoreOp.kv(self._checkpoints, "get_many", (key,))
        else:
            prefix = key_of(thread_of(config), namespace_of(config), "")
            entries = yield StoreOp.kv(self._checkpoints, "list", prefix, limit=1, is_reversed=True)
        if not entries:
            return None
        if self._ttl_s is not None and (self.ttl_config or {}).get("refresh_on_read", True):
            yield from self._touch(thread_of(config))
        return (yield from self._tuple(entries[0].key, entries[0].value))

    def _list(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> StoreProgram[Sequence[CheckpointTuple]]:
        only = get_checkpoint_id(config) if config else None
        until = get_checkpoint_id(before) if before else None
        entries = yield StoreOp.kv(self._checkpoints, "list", prefix_of(config), with_values=False)
        keys = [
            key
            for key in newest_first(entries)
            if only in (None, parts_of(key)[2]) and not (until and parts_of(key)[2] >= until)
        ]
        found: list[CheckpointTuple] = []
        for start in range(0, len(keys), _PAGE):
            page = yield StoreOp.kv(self._checkpoints, "get_many", keys[start : start + _PAGE])
            for entry in page:
                if limit is not None and len(found) >= limit:
                    return found
                metadata = self._metadata(entry.value)
                if wanted and any(metadata.get(key) != value for key, value in wanted.items()):
                    continue
                found.append((yield from self._tuple(entry.key, entry.value)))
        return found

    def _put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> StoreProgram[RunnableConfig]:
        thread_id, namespace = thread_of(config), namespace_of(config)
        packed = pack(
            {
                "checkpoint": self.serde.dumps_typed(checkpoint),
                "metadata": self.serde.dumps_typed(get_checkpoint_metadata(config, metadata)),
            },
            {"parent": get_checkpoint_id(config)},
        )
        key = key_of(thread_id, namespace, checkpoint["id"])
        yield StoreOp.kv(self._checkpoints, "set", key, packed, ttl_s=self._ttl_s)
        if self._ttl_s is not None:
            yield from self._touch(thread_id)
        if self._max_checkpoints is not None:
            yield from self._keep_newest(key_of(thread_id, namespace, ""), self._max_checkpoints)
        return config_of(thread_id, namespace, checkpoint["id"])

    def _put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> StoreProgram[None]:
        checkpoint_id = config["configurable"]["checkpoint_id"]
        prefix = key_of(thread_of(config), namespace_of(config), checkpoint_id)
        items = {}
        for position, (channel, value) in enumerate(writes):
            number = WRITES_IDX_MAP.get(channel, position)
            key = f"{prefix}/{quote(task_id, safe='')}/{number + _SHIFT:07}"
            about = {"task": task_id, "channel": channel, "path": task_path, "number": number}
            items[key] = pack({"value": self.serde.dumps_typed(value)}, about)
        if ordinary := [key for key in items if int(key[-7:]) >= _SHIFT]:
            known = yield StoreOp.kv(self._writes, "get_many", ordinary)
            for entry in known:
                del items[entry.key]
        if items:
            yield StoreOp.kv(self._writes, "put", items, ttl_s=self._ttl_s)

    def _delete_thread(self, thread_id: str) -> StoreProgram[None]:
        prefix = thread_prefix(thread_id)
        yield StoreOp.kv(self._checkpoints, "clear", prefix)
        yield StoreOp.kv(self._writes, "clear", prefix)

    def _delete_for_runs(self, run_ids: Sequence[str]) -> StoreProgram[None]:
        runs = set(map(str, run_ids))
        entries = yield StoreOp.kv(self._checkpoints, "list")
        gone = [e.key for e in entries if str(self._metadata(e.value).get("run_id")) in runs]
        yield from self._forget(gone)

    def _copy_thread(self, source: str, target: str) -> StoreProgram[None]:
        old, new = thread_prefix(source), thread_prefix(target)
        for namespace in (self._writes, self._checkpoints):
            entries = yield StoreOp.kv(namespace, "list", old)
            if entries:
                copies = {new + entry.key.removeprefix(old): entry.value for entry in entries}
                yield StoreOp.kv(namespace, "put", copies, ttl_s=self._ttl_s)

    def _prune(self, thread_ids: Sequence[str], strategy: str) -> StoreProgram[None]:
        for thread_id in thread_ids:
            if strategy == "delete":
                yield from self._delete_thread(thread_id)
                continue
            if strategy != "keep_latest":
                raise ValueError(f"strategy: got {strategy!r}; allowed: 'keep_latest', 'delete'")
            prefix = thread_prefix(thread_id)
            entries = yield StoreOp.kv(self._checkpoints, "list", prefix, with_values=False)
            for namespace in {entry.key.rpartition("/")[0] for entry in entries}:
                yield from self._keep_newest(f"{namespace}/", 1)

    def _keep_newest(self, prefix: str, num_kept: int) -> StoreProgram[None]:
        """Remove all but the newest checkpoints of a namespace and what they are built from."""
        entries = yield StoreOp.kv(
            self._checkpoints, "list", prefix, is_reversed=True, with_values=False
        )
        kept, older = entries[:num_kept], {entry.key for entry in entries[num_kept:]}
        if older:
            for entry in kept:
                older -= yield from self._origins(entry.key)
            yield from self._forget(sorted(older))

    def _origins(self, key: str) -> StoreProgram[set[str]]:
        """Return the keys of the ancestors from which a checkpoint's delta channels are built.

        Such a channel is stored as a whole only now and then; in between, only the writes are.
        """
        found: set[str] = set()
        (entry,) = yield StoreOp.kv(self._checkpoints, "get_many", (key,))
        missing = {*(self._metadata(entry.value).get("counters_since_delta_snapshot") or ())}
        missing -= self._channels(entry.value)
        thread_id, namespace, _ = parts_of(key)
        while missing and (parent := unpack(entry.value)[1]["parent"]):
            above = key_of(thread_id, namespace, parent)
            entries = yield StoreOp.kv(self._checkpoints, "get_many", (above,))
            if not entries:
                break
            entry = entries[0]
            found.add(above)
            missing -= self._channels(entry.value)
        return found

    def _touch(self, thread_id: str) -> StoreProgram[None]:
        """Restart the time to live of a thread, with all that its checkpoints need."""
        for namespace in (self._checkpoints, self._writes):
            yield StoreOp.kv(namespace, "touch", prefix=thread_prefix(thread_id), ttl_s=self._ttl_s)

    def _sweep(self) -> StoreProgram[int]:
        yield StoreOp.kv(self._writes, "sweep")
        num_swept: int = yield StoreOp.kv(self._checkpoints, "sweep")
        return num_swept

    def _forget(self, keys: Sequence[str]) -> StoreProgram[None]:
        """Delete checkpoints, with their pending writes."""
        if keys:
            yield StoreOp.kv(self._checkpoints, "delete", *keys)
        for key in keys:
            yield StoreOp.kv(self._writes, "clear", f"{key}/")

    # --- values -------------------------------------------------------------------------------

    def _tuple(self, key: str, value: Any) -> StoreProgram[CheckpointTuple]:
        thread_id, namespace, checkpoint_id = parts_of(key)
        entries = yield StoreOp.kv(self._writes, "list", f"{key}/")
        parts, about = unpack(value)
        parent = about["parent"]
        return CheckpointTuple(
            config=config_of(thread_id, namespace, checkpoint_id),
            checkpoint=self.serde.loads_typed(parts["checkpoint"]),
            metadata=self.serde.loads_typed(parts["metadata"]),
            parent_config=config_of(thread_id, namespace, parent) if parent else None,
            pending_writes=[self._write(entry.value) for entry in sorted(entries, key=_place)],
        )

    def _metadata(self, value: Any) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.serde.loads_typed(unpack(value)[0]["metadata"])
        return found

    def _channels(self, value: Any) -> set[str]:
        """Return the channels that have a value in a checkpoint."""
        checkpoint: Checkpoint = self.serde.loads_typed(unpack(value)[0]["checkpoint"])
        return {*checkpoint["channel_values"]}

    def _write(self, value: Any) -> tuple[str, str, Any]:
        parts, about = unpack(value)
        return about["task"], about["channel"], self.serde.loads_typed(parts["value"])


def _place(entry: Any) -> tuple[str, str, int]:
    """Return the sort key of a pending write: the task's path, its id, and the write's number."""
    about = unpack(entry.value)[1]
    return about["path"], about["task"], about["number"]
