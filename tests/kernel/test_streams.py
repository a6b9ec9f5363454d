"""Streams on threads and event loops, and observers of the kernel's events."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from aios_core import (
    CoreError,
    EventKind,
    EventLog,
    Kernel,
    KernelEvent,
    NoSuchObject,
    SyscallCancelled,
)
from aios_core.cores import ScriptedCore
from tests.puppet import PuppetCore, asks, booted, error_of, settled, virtual

from .rig import echo, until

# --- streams --------------------------------------------------------------------------------------


def test_a_stream_on_a_plain_thread(boot: Callable[..., Kernel]) -> None:
    agent = boot(ScriptedCore("one two three", token_s=0.001)).spawn("a")

    with agent.llm.stream("hi") as stream:
        texts = [delta.text for delta in stream]

    assert texts == ["one ", "two ", "three"]
    assert stream.completion.text == "one two three"


@virtual
async def test_a_stream_on_the_kernels_loop() -> None:
    async with booted(ScriptedCore("one two three", token_s=1.0)) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        texts = [delta.text async for delta in stream]

        assert texts == ["one ", "two ", "three"]
        assert stream.completion.text == "one two three"


def test_a_stream_on_another_loop(boot: Callable[..., Kernel]) -> None:
    agent = boot(ScriptedCore("one two three", token_s=0.001)).spawn("a")

    async def read() -> list[str]:
        return [delta.text async for delta in agent.llm.astream("hi")]

    assert asyncio.run(read()) == ["one ", "two ", "three"]


@pytest.mark.parametrize("leave", ["close", "with", "forget"])
def test_a_stream_that_is_left_early_frees_the_core(
    boot: Callable[..., Kernel], leave: str
) -> None:
    core = PuppetCore()
    agent = boot(core).spawn("a")
    stream = agent.llm.stream("hi")
    until(lambda: core.runs)
    core.progress(text="once")
    assert next(stream).text == "once"

    if leave == "close":
        stream.close()
    elif leave == "with":
        with stream:
            pass
    else:
        del stream

    until(lambda: not core.runs)


@pytest.mark.parametrize("leave", ["aclose", "forget", "cycle"])
@virtual
async def test_an_async_stream_that_is_left_early_frees_the_core(leave: str) -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        core.progress(text="once")
        assert (await anext(stream)).text == "once"

        if leave == "aclose":
            await stream.aclose()
        elif leave == "cycle":
            stream.me = stream  # type: ignore[attr-defined]
            del stream
            gc.collect()
        else:
            del stream
        await settled()

        assert not core.runs


@virtual
async def test_forgetting_a_stream_changes_nothing_before_the_loop_turns() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        del stream  # as a garbage collection in the middle of a decision would

        assert core.runs
        await settled()
        assert not core.runs


@virtual
async def test_a_refused_stream_raises_when_it_is_read() -> None:
    async with booted(echo()) as kernel:
        with pytest.raises(NoSuchObject):
            await anext(kernel.spawn("a").llm.astream("hi", model="nope"))


@virtual
async def test_a_core_that_dies_in_mid_stream_ends_the_stream_with_its_error() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        stream = kernel.spawn("a").llm.astream("hi")
        core.progress(text="once upon")
        core.die(CoreError("puppet", "power cut", is_retryable=True))

        heard = [(await anext(stream)).text]
        with pytest.raises(CoreError, match="power cut"):
            await anext(stream)
        assert heard == ["once upon"]


# --- observers ------------------------------------------------------------------------------------


@virtual
async def test_an_observer_that_raises_is_dropped_and_the_kernel_goes_on() -> None:
    seen: list[KernelEvent] = []

    def bad(event: KernelEvent) -> None:
        seen.append(event)
        raise RuntimeError("an observer's bug")

    async with booted(echo(), observers=[bad]) as kernel:
        assert (await kernel.spawn("a").llm.agenerate("hi")).text == "hi"

    assert len(seen) == 1


@virtual
async def test_an_observer_may_end_the_agent_that_it_is_told_of() -> None:
    core = PuppetCore()
    async with booted(core) as kernel:

        def judge(event: KernelEvent) -> None:
            if event.kind is EventKind.SUBMITTED and event.pid is not None:
                kernel.exit(event.pid)

        kernel.subscribe(judge)
        call = asks(kernel.spawn("a"))

        assert isinstance(await error_of(call), SyscallCancelled)
        assert not core.history


def test_unsubscribing_ends_the_telling(boot: Callable[..., Kernel]) -> None:
    kernel, journal = boot(), EventLog()

    unsubscribe = kernel.subscribe(journal)
    kernel.spawn("a")
    unsubscribe()
    kernel.spawn("b")

    assert [event.facts["name"] for event in journal.events()] == ["a"]
