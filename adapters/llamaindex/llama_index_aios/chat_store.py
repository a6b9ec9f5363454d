"""Keep LlamaIndex's chat messages in an agent's memory.

`AIOSChatStore` is a store for `Memory`:

    Memory.from_defaults(session_id="42", chat_store=AIOSChatStore())

`AIOSSimpleChatStore` is a store for the older `ChatMemoryBuffer`. Messages are an ordered
thread of the kernel's memory, durable when a method returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.storage.chat_store.base import BaseChatStore
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, Kernel
from llama_index_aios.callers import user_of_store

_PREFIX = "llamaindex/"


class AIOSChatStore(AsyncDBChatStore):
    """A store of messages by session. It also keeps messages that `Memory` has archived.

    Args:
        agent: the owner of the memory, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.
    """

    _store: AgentStore = PrivateAttr()

    def __init__(
        self,
        *,
        agent: str | Agent = "llamaindex",
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        super().__init__()
        self._store = AgentStore(agent, kernel, group, user_of_store)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in LlamaIndex's serialized objects."""
        return "AIOSChatStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, the oldest first."""
        return await self._store.arun(_read(key, status, offset or 0, limit))

    async def count_messages(
        self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE
    ) -> int:
        """Return the number of messages of a session."""
        return await self._store.arun(_count(key, status))

    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append a message to a session."""
        await self.add_messages(key, [message], status)

    async def add_messages(
        self,
        key: str,
        messages: list[ChatMessage],
        status: MessageStatus = MessageStatus.ACTIVE,
    ) -> None:
        """Append messages to a session, all or none."""
        await self._store.arun(_add(key, messages, status))

    async def set_messages(
        self,
        key: str,
        messages: list[ChatMessage],
        status: MessageStatus = MessageStatus.ACTIVE,
    ) -> None:
        """Replace all messages of a session."""
        await self._store.arun(_set(key, messages, status))

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the message at a position, and return it."""
        return await self._store.arun(_take_one(key, index=idx))

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete all messages of a session, or those with a status."""
        await self._store.arun(_take_all(key, status))

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the `n` oldest messages, and return them."""
        return await self._store.arun(_take(key, "remove", first=n))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the `n` oldest messages, and return them."""
        return await self._store.arun(_take(key, "archive", first=n))

    async def get_keys(self) -> list[str]:
        """Return the keys of all sessions."""
        return await self._store.arun(_keys())


class AIOSSimpleChatStore(BaseChatStore):
    """A store of messages by session for `ChatMemoryBuffer`, which has no archive."""

    _store: AgentStore = PrivateAttr()

    def __init__(
        self,
        *,
        agent: str | Agent = "llamaindex",
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        super().__init__()
        self._store = AgentStore(agent, kernel, group, user_of_store)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in LlamaIndex's serialized objects."""
        return "AIOSSimpleChatStore"

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace all messages of a session."""
        self._store.run(_set(key, messages, MessageStatus.ACTIVE))

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace all messages of a session (async form of `set_messages`)."""
        await self._store.arun(_set(key, messages, MessageStatus.ACTIVE))

    def get_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a session, the oldest first."""
        return self._store.run(_read(key, MessageStatus.ACTIVE, 0, None))

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """Return the messages of a session (async form of `get_messages`)."""
        return await self._store.arun(_read(key, MessageStatus.ACTIVE, 0, None))

    def add_message(self, key: str, message: ChatMessage) -> None:
        """Append a message to a session."""
        self._store.run(_add(key, [message], MessageStatus.ACTIVE))

    async def async_add_message(self, key: str, message: ChatMessage) -> None:
        """Append a message to a session (async form of `add_message`)."""
        await self._store.arun(_add(key, [message], MessageStatus.ACTIVE))

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Delete all messages of a session, and return them."""
        return self._store.run(_take_all(key, None))

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """Take out all messages; those that there were (async form of `delete_messages`)."""
        return await self._store.arun(_take_all(key, None))

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the message at a position, and return it."""
        return self._store.run(_take_one(key, index=idx))

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the message at a position (async form of `delete_message`)."""
        return await self._store.arun(_take_one(key, index=idx))

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Delete the newest message, and return it."""
        return self._store.run(_take_one(key, last=1))

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """Delete the newest message (async form of `delete_last_message`)."""
        return await self._store.arun(_take_one(key, last=1))

    def get_keys(self) -> list[str]:
        """Return the keys of all sessions."""
        return self._store.run(_keys())

    async def aget_keys(self) -> list[str]:
        """Return the keys of all sessions (async form of `get_keys`)."""
        return await self._store.arun(_keys())


# --- programs ----------------------------------------------------------------------------------


def _read(
    key: str, status: MessageStatus | None, start: int, limit: int | None
) -> StoreProgram[list[ChatMessage]]:
    entries = yield StoreOp.thread(_PREFIX + key, "read", start, limit, status=_status(status))
    return _messages(entries)


def _count(key: str, status: MessageStatus | None) -> StoreProgram[int]:
    count: int = yield StoreOp.thread(_PREFIX + key, "count", _status(status))
    return count


def _add(key: str, messages: Sequence[ChatMessage], status: MessageStatus) -> StoreProgram[None]:
    if messages:
        numbers = yield StoreOp.thread(_PREFIX + key, "append", *map(_plain, messages))
        if status is MessageStatus.ARCHIVED:
            yield StoreOp.thread(_PREFIX + key, "archive", numbers=numbers)


def _set(key: str, messages: Sequence[ChatMessage], status: MessageStatus) -> StoreProgram[None]:
    numbers = yield StoreOp.thread(_PREFIX + key, "replace", [_plain(one) for one in messages])
    if status is MessageStatus.ARCHIVED and numbers:
        yield StoreOp.thread(_PREFIX + key, "archive", numbers=numbers)


def _take(key: str, method: str, **which: Any) -> StoreProgram[list[ChatMessage]]:
    return _messages((yield StoreOp.thread(_PREFIX + key, method, **which)))


def _take_one(key: str, **which: Any) -> StoreProgram[ChatMessage | None]:
    taken = yield from _take(key, "remove", **which)
    return taken[0] if taken else None


def _take_all(key: str, status: MessageStatus | None) -> StoreProgram[list[ChatMessage]]:
    entries = yield StoreOp.thread(_PREFIX + key, "read", status=_status(status))
    if entries:
        numbers = [entry.number for entry in entries]
        yield StoreOp.thread(_PREFIX + key, "remove", numbers=numbers)
    return _messages(entries)


def _keys() -> StoreProgram[list[str]]:
    names = yield StoreOp.memory("threads", _PREFIX)
    return [name.removeprefix(_PREFIX) for name in names]


def _status(status: MessageStatus | None) -> str:
    return "all" if status is None else str(status.value)


def _plain(message: ChatMessage) -> dict[str, Any]:
    plain: dict[str, Any] = message.model_dump(mode="json", exclude_none=True)
    return plain


def _messages(entries: Sequence[Any]) -> list[ChatMessage]:
    return [ChatMessage.model_validate(entry.content) for entry in entries]
