"""Keep AutoGen's memory and model context in the kernel's memory.

Both belong to a named agent (its identity, "group/name"), so the next run of the program
finds them. The kernel applies quotas, labels and access checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self
from uuid import uuid4

from autogen_core import CancellationToken, Component
from autogen_core.memory import (
    Memory,
    MemoryContent,
    MemoryMimeType,
    MemoryQueryResult,
    UpdateContextResult,
)
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)
from pydantic import BaseModel, TypeAdapter

from aios_core import Agent, Kernel
from aios_core.errors import InvalidRequest, NoSuchObject
from autogen_aios.callers import agent_ref

_HEADING: Final = "\nRelevant memory content:\n"
_ANY_MESSAGE: Final[TypeAdapter[LLMMessage]] = TypeAdapter(LLMMessage)


class AIOSMemoryConfig(BaseModel):
    """The configuration of a memory."""

    agent: str
    name: str = "autogen"
    group: str | None = None
    limit: int = 5


class AIOSMemory(Memory, Component[AIOSMemoryConfig]):
    """An agent's memory for AutoGen, searched by meaning.

    Args:
        agent: the owner, as a name or an agent of the kernel.
        name: the prefix of its blocks ("NAME/..."), and the namespace of their metadata.
        group: the agent's privilege group; None for the kernel's default.
        limit: how many memories a query, or an agent's turn, gets at most.
        kernel: None for the default kernel of this process.
    """

    component_config_schema = AIOSMemoryConfig
    component_provider_override = "autogen_aios.AIOSMemory"

    def __init__(
        self,
        agent: str | Agent,
        *,
        name: str = "autogen",
        group: str | None = None,
        limit: int = 5,
        kernel: Kernel | None = None,
    ) -> None:
        self._agent = agent_ref(agent, group, kernel)
        self._name = name
        self._limit = limit

    async def add(
        self, content: MemoryContent, cancellation_token: CancellationToken | None = None
    ) -> None:
        """Store a text or a JSON value.

        Raises:
            InvalidRequest: the content is a picture or bytes.
        """
        text = _text_of(content.content)
        note = json.loads(content.model_dump_json(exclude={"content"}))
        note["is_json"] = not isinstance(content.content, str)
        key = uuid4().hex
        async with self._agent.ause() as agent:
            await agent.memory.kv(self._name).aset(key, json.dumps(note))
            await agent.memory.awrite(f"{self._name}/{key}", text)
        del cancellation_token  # a write in flight cannot be cancelled

    async def query(
        self,
        query: str | MemoryContent,
        cancellation_token: CancellationToken | None = None,  # noqa: ARG002 - the task's end is enough
        **kwargs: Any,
    ) -> MemoryQueryResult:
        """Find the memories nearest in meaning; their metadata has the `score`.

        Args:
            query: a text, or a memory with text or JSON.
            cancellation_token: not used; cancelling the task ends the search.
            kwargs: `limit` overrides the memory's own limit.
        """
        text = query if isinstance(query, str) else _text_of(query.content)
        limit = int(kwargs.get("limit", self._limit))
        found: dict[str, float] = {}
        results = []
        async with self._agent.ause() as agent:
            hits = await agent.memory.asearch(text, limit=limit, prefix=f"{self._name}/")
            for hit in hits:  # one block may have several hits; the nearest comes first
                found.setdefault(hit.block, hit.score)
            for block, score in found.items():
                key = block.removeprefix(f"{self._name}/")
                note = json.loads(await agent.memory.kv(self._name).aget(key) or "{}")
                content = str(await agent.memory.aread(block))
                results.append(_remembered(content, note, score))
        return MemoryQueryResult(results=results)

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add the memories nearest to the last message to the context, as a system message."""
        nothing = UpdateContextResult(memories=MemoryQueryResult(results=[]))
        messages = await model_context.get_messages()
        if not messages or not (text := _message_text(messages[-1])).strip():
            return nothing
        memories = await self.query(text)
        if not memories.results:
            return nothing
        lines = [f"{n}. {_text_of(one.content)}" for n, one in enumerate(memories.results, 1)]
        await model_context.add_message(SystemMessage(content=_HEADING + "\n".join(lines)))
        return UpdateContextResult(memories=memories)

    async def clear(self) -> None:
        """Delete all memories."""
        async with self._agent.ause() as agent:
            await agent.memory.aclear_all(f"{self._name}/")
            await agent.memory.kv(self._name).aclear()

    async def close(self) -> None:
        """Do nothing: no resources are held, and the memories are kept."""

    def _to_config(self) -> AIOSMemoryConfig:
        return AIOSMemoryConfig(
            agent=str(self._agent.name),
            name=self._name,
            group=self._agent.settings.group,
            limit=self._limit,
        )

    @classmethod
    def _from_config(cls, config: AIOSMemoryConfig) -> Self:
        return cls(**config.model_dump())


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return json.dumps(content, ensure_ascii=False)
    raise InvalidRequest(f"content: got {type(content).__name__}; allowed: a text or a JSON object")


def _remembered(text: str, note: Mapping[str, Any], score: float) -> MemoryContent:
    return MemoryContent(
        content=json.loads(text) if note.get("is_json") else text,
        mime_type=note.get("mime_type") or MemoryMimeType.TEXT.value,
        metadata={**(note.get("metadata") or {}), "score": score},
    )


def _message_text(message: LLMMessage) -> str:
    match message:
        case UserMessage() | AssistantMessage() | SystemMessage():
            content = message.content
            return content if isinstance(content, str) else " ".join(map(str, content))
        case FunctionExecutionResultMessage():
            return " ".join(result.content for result in message.content)


class AIOSChatCompletionContextConfig(BaseModel):
    """The configuration of a model context."""

    thread: str
    agent: str
    group: str | None = None
    buffer_size: int | None = None


class AIOSChatCompletionContext(ChatCompletionContext, Component[AIOSChatCompletionContextConfig]):
    """A conversation that is kept between runs of a program, as a thread of the kernel's memory.

    Args:
        thread: the name of the thread.
        agent: the owner, as a name or an agent of the kernel.
        group: the agent's privilege group; None for the kernel's default.
        buffer_size: how many of the latest messages the model gets; None for all.
        kernel: None for the default kernel of this process.
    """

    component_config_schema = AIOSChatCompletionContextConfig
    component_provider_override = "autogen_aios.AIOSChatCompletionContext"
    component_type: ClassVar[Any] = "chat_completion_context"

    def __init__(
        self,
        thread: str,
        agent: str | Agent,
        *,
        group: str | None = None,
        buffer_size: int | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__()
        if buffer_size is not None and buffer_size < 1:
            raise InvalidRequest(f"buffer_size: got {buffer_size}; allowed: at least 1")
        self._thread = thread
        self._agent = agent_ref(agent, group, kernel)
        self._buffer_size = buffer_size

    async def add_message(self, message: LLMMessage) -> None:
        """Append a message to the conversation."""
        async with self._agent.ause() as agent:
            await agent.memory.thread(self._thread).aappend(_plain(message))

    async def get_messages(self) -> list[LLMMessage]:
        """Return the messages for the model, without tool results that have lost their call."""
        messages = await self._read(self._buffer_size)
        if self._buffer_size and messages:
            while messages and isinstance(messages[0], FunctionExecutionResultMessage):
                messages = messages[1:]
        return messages

    async def clear(self) -> None:
        """Delete all messages of the conversation."""
        async with self._agent.ause() as agent:
            await agent.memory.thread(self._thread).areplace([])

    async def save_state(self) -> Mapping[str, Any]:
        """Return all messages, in the format of AutoGen's own contexts."""
        return {"messages": [message.model_dump() for message in await self._read(None)]}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace all messages by those of a saved state."""
        messages = [_plain(_ANY_MESSAGE.validate_python(raw)) for raw in state["messages"]]
        async with self._agent.ause() as agent:
            await agent.memory.thread(self._thread).areplace(messages)

    async def _read(self, last: int | None) -> list[LLMMessage]:
        async with self._agent.ause() as agent:
            try:
                entries = await agent.memory.thread(self._thread).aread(last=last)
            except NoSuchObject:
                return []
        return [_ANY_MESSAGE.validate_python(entry.content) for entry in entries]

    def _to_config(self) -> AIOSChatCompletionContextConfig:
        return AIOSChatCompletionContextConfig(
            thread=self._thread,
            agent=str(self._agent.name),
            group=self._agent.settings.group,
            buffer_size=self._buffer_size,
        )

    @classmethod
    def _from_config(cls, config: AIOSChatCompletionContextConfig) -> Self:
        return cls(**config.model_dump())


def _plain(message: LLMMessage) -> Any:
    """Return a message as JSON. A picture is encoded in it, and restored when it is read."""
    return json.loads(message.model_dump_json())
