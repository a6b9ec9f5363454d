"""AutoGen's memory and model context in the kernel: found by meaning, kept over programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import Image
from autogen_core.memory import Memory, MemoryContent, MemoryMimeType
from autogen_core.model_context import ChatCompletionContext, UnboundedChatCompletionContext
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)
from PIL import Image as Picture

from aios_core import Kernel, KernelConfig
from aios_core.config import StateConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import InvalidRequest
from autogen_aios import AIOSChatCompletionClient, AIOSChatCompletionContext, AIOSMemory


def text(said: str, **metadata: Any) -> MemoryContent:
    return MemoryContent(content=said, mime_type=MemoryMimeType.TEXT, metadata=metadata or None)


async def test_what_was_added_is_found_by_its_meaning(kernel: Kernel) -> None:
    memory = AIOSMemory("ann", kernel=kernel, limit=1)
    await memory.add(text("the user likes green tea", topic="tea"))
    await memory.add(text("the office is in Oslo"))

    (found,) = (await memory.query("which tea does the user like")).results

    assert found.content == "the user likes green tea"
    assert found.metadata is not None
    assert found.metadata["topic"] == "tea"
    assert 0 < found.metadata["score"] <= 1


async def test_a_json_value_comes_back_as_one(kernel: Kernel) -> None:
    memory = AIOSMemory("ann", kernel=kernel)
    await memory.add(MemoryContent(content={"city": "Oslo"}, mime_type=MemoryMimeType.JSON))

    (found,) = (await memory.query("city Oslo")).results

    assert (found.content, found.mime_type) == ({"city": "Oslo"}, "application/json")


async def test_a_picture_is_refused(kernel: Kernel) -> None:
    picture = Image(Picture.new("RGB", (1, 1)))

    with pytest.raises(InvalidRequest, match="Image"):
        await AIOSMemory("ann", kernel=kernel).add(
            MemoryContent(content=picture, mime_type=MemoryMimeType.IMAGE)
        )


async def test_an_agent_is_told_what_belongs_to_what_was_said(kernel: Kernel) -> None:
    memory = AIOSMemory("ann", kernel=kernel)
    await memory.add(text("the user likes green tea"))
    client = AIOSChatCompletionClient(kernel=kernel)

    await AssistantAgent("ann", client, memory=[memory]).run(task="which tea does the user like?")

    (core,) = kernel.pool
    told = core.requests[-1].messages  # type: ignore[attr-defined]
    assert "1. the user likes green tea" in told[-1].content


async def test_an_empty_context_is_told_nothing(kernel: Kernel) -> None:
    context = UnboundedChatCompletionContext()

    result = await AIOSMemory("ann", kernel=kernel).update_context(context)

    assert result.memories.results == []
    assert await context.get_messages() == []


async def test_memories_of_different_agents_and_names_are_apart(kernel: Kernel) -> None:
    mine = AIOSMemory("ann", kernel=kernel)
    await mine.add(text("green tea"))

    for other in (AIOSMemory("bob", kernel=kernel), AIOSMemory("ann", name="x", kernel=kernel)):
        assert (await other.query("tea")).results == []
    await mine.clear()
    assert (await mine.query("tea")).results == []


MESSAGES: list[LLMMessage] = [
    SystemMessage(content="be kind"),
    UserMessage(content="hi", source="user"),
    AssistantMessage(content="hello", source="ann", thought="hm"),
]


async def test_a_conversation_is_kept_in_order(kernel: Kernel) -> None:
    context = AIOSChatCompletionContext("t", "ann", kernel=kernel)
    assert await context.get_messages() == []
    for message in MESSAGES:
        await context.add_message(message)

    again = AIOSChatCompletionContext("t", "ann", kernel=kernel)

    assert await again.get_messages() == MESSAGES
    await again.clear()
    assert await context.get_messages() == []


async def test_a_buffer_shows_the_latest_without_results_whose_calls_are_gone(
    kernel: Kernel,
) -> None:
    context = AIOSChatCompletionContext("t", "ann", buffer_size=2, kernel=kernel)
    result = FunctionExecutionResult(content="2", name="add", call_id="c1")
    await context.add_message(MESSAGES[1])
    await context.add_message(FunctionExecutionResultMessage(content=[result]))
    await context.add_message(MESSAGES[2])

    assert await context.get_messages() == [MESSAGES[2]]


async def test_a_state_goes_from_one_context_to_another(kernel: Kernel) -> None:
    one = AIOSChatCompletionContext("one", "ann", kernel=kernel)
    other = AIOSChatCompletionContext("other", "ann", kernel=kernel)
    for message in MESSAGES:
        await one.add_message(message)

    await other.load_state(await one.save_state())

    assert await other.get_messages() == MESSAGES
    theirs = UnboundedChatCompletionContext()
    await theirs.load_state(await one.save_state())
    assert await theirs.get_messages() == MESSAGES


def test_both_survive_being_written_down() -> None:
    memory = AIOSMemory("ann", name="notes", limit=2)
    context = AIOSChatCompletionContext("t", "ann", group="ops", buffer_size=3)

    again = Memory.load_component(memory.dump_component())
    assert again.dump_component() == memory.dump_component()
    other = ChatCompletionContext.load_component(context.dump_component())
    assert other.dump_component() == context.dump_component()


async def test_the_next_program_finds_what_the_last_one_kept(tmp_path: Path) -> None:
    config = KernelConfig(state=StateConfig(directory=str(tmp_path)))
    async with Kernel(config, cores=[ScriptedCore("hi")]) as kernel:
        await AIOSMemory("ann", kernel=kernel).add(text("green tea"))
        await AIOSChatCompletionContext("t", "ann", kernel=kernel).add_message(MESSAGES[1])

    async with Kernel(config, cores=[ScriptedCore("hi")]) as kernel:
        (found,) = (await AIOSMemory("ann", kernel=kernel).query("tea")).results
        messages = await AIOSChatCompletionContext("t", "ann", kernel=kernel).get_messages()

    assert found.content == "green tea"
    assert messages == [MESSAGES[1]]
