"""Streams that are left half-read free their slots, and no error is logged."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from agent_framework import Agent
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage

from aios_core import EventKind, Kernel
from aios_core.testing import EventWatcher
from autogen_aios import AIOSChatCompletionClient
from autogen_aios.agent_framework import AIOSChatClient, RawAIOSChatClient

from .conftest import Boot

LONG = "word " * 10_000


async def leave_agent_framework(kernel: Kernel) -> None:
    async for update in Agent(AIOSChatClient(kernel=kernel), name="w").run("hi", stream=True):
        if update.text:
            break


async def leave_autogen(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    async for _ in client.create_stream([UserMessage(content="hi", source="user")]):
        break


async def leave_an_assistant(kernel: Kernel) -> None:
    client = AIOSChatCompletionClient(kernel=kernel)
    agent = AssistantAgent("writer", client, model_client_stream=True)
    events = agent.run_stream(task="hi")
    async for event in events:
        if getattr(event, "content", "") == "word ":
            break


def run_to_the_end(work: Callable[[Kernel], Awaitable[None]], kernel: Kernel) -> list[Any]:
    """Return the errors that a loop logs when it ends."""
    complaints: list[Any] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(work(kernel))  # type: ignore[arg-type] # a coroutine
    return complaints


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("leave", [leave_agent_framework, leave_autogen, leave_an_assistant])
def test_a_stream_that_is_left_when_its_loop_ends_ends_quietly(
    boot: Boot, watch: EventWatcher, leave: Callable[[Kernel], Awaitable[None]]
) -> None:
    kernel = boot(LONG, token_s=0.001)

    complaints = [run_to_the_end(leave, kernel) for _ in range(6)]  # the loop closes in any order

    assert complaints == [[]] * 6
    watch.wait(EventKind.CANCELLED, 6)


@pytest.mark.parametrize("client", [AIOSChatClient, RawAIOSChatClient])
async def test_a_stream_that_is_dropped_frees_its_slot_without_a_collection(
    boot: Boot, watch: EventWatcher, client: type[RawAIOSChatClient]
) -> None:
    stream = Agent(client(kernel=boot(LONG, token_s=0.001)), name="w").run("hi", stream=True)

    with no_collection():
        async for update in stream:
            if update.text:
                break
        del stream, update

        await watch.async_wait(EventKind.CANCELLED)


async def test_a_stream_that_is_read_to_its_end_still_gives_its_response(kernel: Kernel) -> None:
    stream = Agent(AIOSChatClient(kernel=kernel), name="w").run("hi", stream=True)

    said = [update.text async for update in stream]

    assert "".join(said) == (await stream.get_final_response()).text == "You said: hi"
