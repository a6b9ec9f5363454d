"""LangGraph's saver and store in memory, with everything kept by the kernel.

What is put is put into the kernel, and what is read comes from there. Tests look into the
insides of the reference (`storage`, `blobs`, `writes`) and change them, so the saver keeps
them as well; a checkpoint that a test wrote into these itself is read from there.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

import langgraph.checkpoint.memory as savers
import langgraph.store.memory as stores
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from aios_core import Kernel
from langchain_aios import AIOSGraphStore, AIOSSaver

_savers: Final = itertools.count()
_stores: Final = itertools.count()
_made: Final = {"savers": 0, "stores": 0}
_kernel: Callable[[], Kernel]


def reroute(kernel: Callable[[], Kernel]) -> None:
    """Put ours in their places. To be called before a suite imports them."""
    global _kernel  # noqa: PLW0603 - one process, one suite
    _kernel = kernel
    for name in ("InMemorySaver", "MemorySaver"):
        setattr(savers, name, ReroutedSaver)
    setattr(stores, "InMemoryStore", ReroutedStore)  # noqa: B010 - it is a class


def num_savers() -> int:
    """Return the number of savers made."""
    return _made["savers"]


def num_stores() -> int:
    """Return the number of stores made."""
    return _made["stores"]


class ReroutedStore(AIOSGraphStore, InMemoryStore):
    """Made as `InMemoryStore` is."""

    def __init__(self, *, index: Any = None) -> None:
        _made["stores"] += 1
        name = f"store-{next(_stores)}"
        AIOSGraphStore.__init__(self, name, kernel=_kernel(), index=index)


class ReroutedSaver(InMemorySaver):
    """Keeps and finds checkpoints by an `AIOSSaver`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _made["savers"] += 1
        self._saver = AIOSSaver(f"saver-{next(_savers)}", kernel=_kernel(), serde=self.serde)
        self._put: set[tuple[str, str]] = set()  # thread and id of what went through the kernel

    def _ours(self) -> AIOSSaver:
        """With the serializer of now: a graph may allow it more kinds of values."""
        ours = copy.copy(self._saver)
        ours.serde = self.serde
        return ours

    def _is_known(self, config: Any) -> bool:
        """Return whether what a config names is the kernel's: nothing else was written by hand."""
        thread = config["configurable"]["thread_id"]
        spaces = self.storage.get(thread, {})
        return all((thread, one) in self._put for space in spaces.values() for one in space)

    def get_next_version(self, current: Any, channel: Any) -> str:
        return self._saver.get_next_version(current, channel)

    # --- writing ------------------------------------------------------------------------------

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        self._keep(config, checkpoint, metadata, new_versions)
        return self._ours().put(config, checkpoint, metadata, new_versions)

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        if type(self).put is not ReroutedSaver.put:  # a test's own: the reference would call it
            return self.put(config, checkpoint, metadata, new_versions)
        self._keep(config, checkpoint, metadata, new_versions)
        return await self._ours().aput(config, checkpoint, metadata, new_versions)

    def _keep(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> None:
        super().put(config, checkpoint, metadata, new_versions)
        self._put.add((config["configurable"]["thread_id"], checkpoint["id"]))

    def put_writes(
        self, config: Any, writes: Sequence[Any], task_id: str, task_path: str = ""
    ) -> None:
        super().put_writes(config, writes, task_id, task_path)
        self._ours().put_writes(config, writes, task_id, task_path)

    async def aput_writes(
        self, config: Any, writes: Sequence[Any], task_id: str, task_path: str = ""
    ) -> None:
        if type(self).put_writes is not ReroutedSaver.put_writes:
            self.put_writes(config, writes, task_id, task_path)
            return
        super().put_writes(config, writes, task_id, task_path)
        await self._ours().aput_writes(config, writes, task_id, task_path)

    def delete_thread(self, thread_id: str) -> None:
        super().delete_thread(thread_id)
        self._ours().delete_thread(thread_id)

    async def adelete_thread(self, thread_id: str) -> None:
        super().delete_thread(thread_id)
        await self._ours().adelete_thread(thread_id)

    # --- reading ------------------------------------------------------------------------------

    def get_tuple(self, config: Any) -> CheckpointTuple | None:
        if not self._is_known(config):
            return super().get_tuple(config)
        return self._ours().get_tuple(config)

    async def aget_tuple(self, config: Any) -> CheckpointTuple | None:
        if type(self).get_tuple is not ReroutedSaver.get_tuple or not self._is_known(config):
            return self.get_tuple(config)
        return await self._ours().aget_tuple(config)

    def list(self, config: Any, **kwargs: Any) -> Iterator[CheckpointTuple]:
        if config is not None and not self._is_known(config):
            return super().list(config, **kwargs)
        return self._ours().list(config, **kwargs)

    async def alist(self, config: Any, **kwargs: Any) -> AsyncIterator[CheckpointTuple]:
        if type(self).list is not ReroutedSaver.list or (config and not self._is_known(config)):
            for found in self.list(config, **kwargs):
                yield found
            return
        async for found in self._ours().alist(config, **kwargs):
            yield found

    def get_delta_channel_history(self, **kwargs: Any) -> Any:
        if not self._is_known(kwargs["config"]):
            return super().get_delta_channel_history(**kwargs)
        return self._ours().get_delta_channel_history(**kwargs)

    async def aget_delta_channel_history(self, **kwargs: Any) -> Any:
        if not self._is_known(kwargs["config"]):
            return await super().aget_delta_channel_history(**kwargs)
        return await self._ours().aget_delta_channel_history(**kwargs)
