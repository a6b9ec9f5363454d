"""`AIOSChatMessageHistory`: LangChain's message history, kept in an agent's memory.

Messages are an ordered thread of the kernel's memory: durable when `add_messages`
returns, bounded by the agent's quota, shared only by grant.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict

from aios_adapters import AgentStore, StoreOp, StoreProgram
from aios_core import Agent, Kernel
from langchain_aios.callers import user_of_store


class AIOSChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session.

    Args:
        session_id: the id of the conversation.
        agent: the owner of the memory, as a name or an agent of the kernel.
        kernel: None for the default kernel of this process.
        group: the group of an agent that is spawned by its name.

    >>> history = AIOSChatMessageHistory("42")
    >>> history.add_user_message("hello")
    """

    def __init__(
        self,
        session_id: str,
        *,
        agent: str | Agent = "langchain",
        kernel: Kernel | None = None,
        group: str | None = None,
    ) -> None:
        self.session_id = session_id
        self._store = AgentStore(agent, kernel, group, user_of_store)

    @property
    def messages(self) -> list[BaseMessage]:  # a field in the base class
        """All messages, the oldest first."""
        return self._store.run(self._read())

    @messages.setter
    def messages(self, messages: list[BaseMessage]) -> None:
        self._store.run(self._replace(messages))

    async def aget_messages(self) -> list[BaseMessage]:
        """Return all messages, the oldest first, without blocking the event loop."""
        return await self._store.arun(self._read())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, all or none."""
        self._store.run(self._append(messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, all or none (async form of `add_messages`)."""
        await self._store.arun(self._append(messages))

    def clear(self) -> None:
        """Delete all messages of the session."""
        self._store.run(self._clear())

    async def aclear(self) -> None:
        """Delete all messages of the session (async form of `clear`)."""
        await self._store.arun(self._clear())

    # --- programs -----------------------------------------------------------------------------

    @property
    def _thread(self) -> str:
        return f"langchain/{self.session_id}"

    def _read(self) -> StoreProgram[list[BaseMessage]]:
        entries = yield StoreOp.thread(self._thread, "read")
        return messages_from_dict([entry.content for entry in entries])

    def _append(self, messages: Sequence[BaseMessage]) -> StoreProgram[None]:
        if messages:
            yield StoreOp.thread(self._thread, "append", *map(message_to_dict, messages))

    def _replace(self, messages: Sequence[BaseMessage]) -> StoreProgram[None]:
        yield StoreOp.thread(self._thread, "replace", [message_to_dict(one) for one in messages])

    def _clear(self) -> StoreProgram[None]:
        yield StoreOp.thread(self._thread, "clear")
