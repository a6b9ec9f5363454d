"""AutoGen's memory and model context, kept by the kernel.

Both belong to a named agent (its identity, "group/name"), so that the next run of the
program finds them: quotas, labels of origin and the access check are the kernel's.
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
    """What a memory is made of."""

    agent: str
    name: str = "autogen"
    group: str | None = None
    limit: int = 5


class AIOSMemory(Memory, Component[AIOSMemoryConfig]):
    """What an agent remembers, found by its meaning.

    Args:
        agent: whose memory it is, by name or as an agent of the kernel.
        name: its blocks are "NAME/...", its notes the key-value namespace NAME.
        group: the agent's privilege group; None for the kernel's default.
        limit: how many memories a query, or an agent's turn, gets at most.
        kernel: None for the embedded kernel of this process.
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
        """Remember a text or a JSON value. Raises `InvalidRequest` for pictures and bytes."""
        text = _text_of(content.content)
        note = json.loads(content.model_dump_json(exclude={"content"}))
        note["is_json"] = not isinstance(content.content, str)
        key = uuid4().hex
        async with self._agent.ause() as agent:
            await agent.memory.kv(self._name).aset(key, json.dumps(note))
            await agent.memory.awrite(f"{self._name}/{key}", text)
        del cancellation_token  # a write that has begun is not taken back

    async def query(
        self,
        query: str | MemoryContent,
        cancellation_token: CancellationToken | None = None,  # noqa: ARG002 - the task's end is enough
        **kwargs: Any,
    ) -> MemoryQueryResult:
        """The memories that are nearest in meaning, with their `score` among the metadata.

        `limit` may be said in `kwargs`.
        """
        text = query if isinstance(query, str) else _text_of(query.content)
        limit = int(kwargs.get("limit", self._limit))
        found: dict[str, float] = {}
        results = []
        async with self._agent.ause() as agent:
            hits = await agent.memory.asearch(text, limit=limit, prefix=f"{self._name}/")
            for hit in hits:  # several may lie in one block; the nearest comes first
                found.setdefault(hit.block, hit.score)
            for block, score in found.items():
                key = block.removeprefix(f"{self._name}/")
                note = json.loads(await agent.memory.kv(self._name).aget(key) or "{}")
                content = str(await agent.memory.aread(block))
                results.append(_remembered(content, note, score))
        return MemoryQueryResult(results=results)

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Tell the context, as a system message, what belongs to what was said last."""
        nothing = UpdateContextResult(memories=MemoryQueryResult(results=[]))
        messages = await model_context.get_messages()
        if not messages or not (said := _said(messages[-1])).strip():
            return nothing
        memories = await self.query(said)
        if not memories.results:
            return nothing
        lines = [f"{n}. {_text_of(one.content)}" for n, one in enumerate(memories.results, 1)]
        await model_context.add_message(SystemMessage(content=_HEADING + "\n".join(lines)))
        return UpdateContextResult(memories=memories)

    async def clear(self) -> None:
        """Forget everything."""
        async with self._agent.ause() as agent:
            await agent.memory.aclear_all(f"{self._name}/")
            await agent.memory.kv(self._name).aclear()

    async def close(self) -> None:
        """Nothing is held; what is remembered stays."""

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


def _said(message: LLMMessage) -> str:
    match message:
        case UserMessage() | AssistantMessage() | SystemMessage():
            content = message.content
            return content if isinstance(content, str) else " ".join(map(str, content))
        case FunctionExecutionResultMessage():
            return " ".join(result.content for result in message.content)


class AIOSChatCompletionContextConfig(BaseModel):
    """What a context is made of."""

    thread: str
    agent: str
    group: str | None = None
    buffer_size: int | None = None


class AIOSChatCompletionContext(ChatCompletionContext, Component[AIOSChatCompletionContextConfig]):
    """A conversation that outlives the program: a thread of the kernel's memory.

    Args:
        thread: its name.
        agent: whose thread it is, by name or as an agent of the kernel.
        group: the agent's privilege group; None for the kernel's default.
        buffer_size: the model sees that many of the latest messages; None for all.
        kernel: None for the embedded kernel of this process.
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
        """Keep one more message."""
        async with self._agent.ause() as agent:
            await agent.memory.thread(self._thread).aappend(_plain(message))

    async def get_messages(self) -> list[LLMMessage]:
        """What the model sees. A tool's result whose call is too far back is left out."""
        messages = await self._read(self._buffer_size)
        if self._buffer_size and messages:
            while messages and isinstance(messages[0], FunctionExecutionResultMessage):
                messages = messages[1:]
        return messages

    async def clear(self) -> None:
        """Forget the conversation."""
        async with self._agent.ause() as agent:
            await agent.memory.thread(self._thread).areplace([])

    async def save_state(self) -> Mapping[str, Any]:
        """All messages, as AutoGen's own contexts write them."""
        return {"messages": [message.model_dump() for message in await self._read(None)]}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Put the messages of a state in place of what there is."""
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
    """The message as JSON. A picture becomes data of its own, and comes back as it was."""
    return json.loads(message.model_dump_json())
