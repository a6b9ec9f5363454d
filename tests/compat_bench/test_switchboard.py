"""Calls of fakes go through a kernel, and their answers reach the callers unchanged."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from aios_core import Agent, Delta, InvalidRequest, Message
from aios_core.cores.deltas import assemble
from compat_bench.reroute.switchboard import (
    KEY,
    LostOnTheWay,
    Switchboard,
    answering,
    is_answering,
    own_asteps,
    own_steps,
    require_same,
)

ASKED = [Message("user", "hello")]
Board = Switchboard[Message, Delta]


@pytest.fixture
def board() -> Iterator[Board]:
    made: Board = Switchboard(
        lambda answer: answer, lambda step: step, lambda steps: assemble(steps).message()
    )
    with contextlib.closing(made):
        yield made


@pytest.fixture
def agent(board: Board) -> Agent:
    return board.kernel().spawn("fake")


def generate(agent: Agent, number: int) -> Message:
    return agent.llm.generate(ASKED, extra={KEY: number}).message


async def agenerate(agent: Agent, number: int) -> Message:
    return (await agent.llm.agenerate(ASKED, extra={KEY: number})).message


def stream(agent: Agent, number: int) -> Iterator[Delta]:
    with agent.llm.stream(ASKED, extra={KEY: number}) as deltas:
        yield from deltas


async def astream(agent: Agent, number: int) -> AsyncIterator[Delta]:
    async for delta in agent.llm.astream(ASKED, extra={KEY: number}):
        yield delta


def test_the_caller_gets_the_very_answer_of_the_fake(board: Board, agent: Agent) -> None:
    said = Message("assistant", "hi", name="only the fake's")

    assert board.answer(lambda n: generate(agent, n), lambda: said) is said
    assert board.num_calls == 1


def test_the_fake_runs_in_its_callers_thread(board: Board, agent: Agent) -> None:
    threads = []

    def theirs() -> Message:
        threads.append(threading.current_thread())
        return Message("assistant", "hi")

    board.answer(lambda n: generate(agent, n), theirs)

    assert threads == [threading.current_thread()]


def test_the_very_exception_of_the_fake_reaches_its_caller(board: Board, agent: Agent) -> None:
    error = KeyError("of the fake")

    def theirs() -> Message:
        raise error

    with pytest.raises(KeyError) as caught:
        board.answer(lambda n: generate(agent, n), theirs)
    assert caught.value is error


async def test_the_very_exception_reaches_a_caller_on_an_event_loop(
    board: Board, agent: Agent
) -> None:
    error = KeyError("of the fake")

    async def theirs() -> Message:
        raise error

    with pytest.raises(KeyError) as caught:
        await board.aanswer(lambda n: agenerate(agent, n), theirs)
    assert caught.value is error


async def test_a_fake_that_waits_answers_on_its_callers_loop(board: Board, agent: Agent) -> None:
    said, gate = Message("assistant", "hi"), asyncio.Event()

    async def theirs() -> Message:
        asyncio.get_running_loop().call_soon(gate.set)
        await gate.wait()
        return said

    assert await board.aanswer(lambda n: agenerate(agent, n), theirs) is said


async def test_a_cancelled_call_leaves_nothing_in_the_kernel(board: Board, agent: Agent) -> None:
    begun = asyncio.Event()

    async def theirs() -> Message:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = asyncio.ensure_future(board.aanswer(lambda n: agenerate(agent, n), theirs))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    said = Message("assistant", "next")
    assert board.answer(lambda n: generate(agent, n), lambda: said) is said


def test_what_is_refused_on_the_way_in_is_an_error(board: Board) -> None:
    def ours(_: int) -> Message:
        raise InvalidRequest("no such message")

    with pytest.raises(InvalidRequest, match="no such message"):
        board.answer(ours, lambda: Message("assistant", "hi"))


def test_an_answer_that_changes_on_the_way_is_an_error(board: Board, agent: Agent) -> None:
    def ours(number: int) -> Message:
        generate(agent, number)
        return Message("assistant", "lo")

    with pytest.raises(LostOnTheWay, match="the fake gave 'hi', the kernel 'lo'"):
        board.answer(ours, lambda: Message("assistant", "hi"))


@pytest.mark.parametrize("name", ["reasoning", "refusal"])
def test_more_than_the_text_is_compared(name: str) -> None:
    said = Message("assistant", "hi", **{name: "because"})  # type: ignore[arg-type]

    with pytest.raises(LostOnTheWay, match=name):
        require_same(said, Message("assistant", "hi"))


def test_an_answer_that_no_core_can_give_is_handed_on_and_counted() -> None:
    def refuse(_: Message) -> Message:
        raise InvalidRequest("no core says so")

    board: Board = Switchboard(refuse, lambda step: step, lambda _: ASKED[0])
    with contextlib.closing(board):
        mine = board.kernel().spawn("fake")
        said = Message("assistant", "hi")

        assert board.answer(lambda n: generate(mine, n), lambda: said) is said
    assert board.report() == "1 calls of fake models (1 not compared)"


def test_a_stream_hands_on_the_fakes_own_steps(board: Board, agent: Agent) -> None:
    said = [Delta("a"), Delta(), Delta("b")]

    got = list(board.steps(lambda n: stream(agent, n), lambda: iter(said)))

    assert len(got) == len(said)
    assert all(one is other for one, other in zip(got, said, strict=True))


async def test_an_asynchronous_stream_hands_on_the_fakes_own_steps(
    board: Board, agent: Agent
) -> None:
    said = [Delta("a"), Delta("b")]

    async def theirs() -> AsyncIterator[Delta]:
        for step in said:
            yield step

    got = [step async for step in board.asteps(lambda n: astream(agent, n), theirs)]

    assert all(one is other for one, other in zip(got, said, strict=True))


def test_a_stream_that_breaks_off_raises_the_fakes_own_exception(
    board: Board, agent: Agent
) -> None:
    error = ValueError("broke off")

    def theirs() -> Iterator[Delta]:
        yield Delta("a")
        raise error

    steps = board.steps(lambda n: stream(agent, n), theirs)
    assert next(steps) == Delta("a")
    with pytest.raises(ValueError, match="broke off") as caught:
        next(steps)
    assert caught.value is error


def test_a_stream_that_is_left_leaves_nothing_in_the_kernel(board: Board, agent: Agent) -> None:
    steps = board.steps(lambda n: stream(agent, n), lambda: iter([Delta("a"), Delta("b")]))
    next(steps)
    steps.close()  # type: ignore[attr-defined] # it is a generator

    said = Message("assistant", "next")
    assert board.answer(lambda n: generate(agent, n), lambda: said) is said


def test_a_fake_that_calls_itself_is_its_own_business() -> None:
    fake, other = object(), object()
    inside: list[tuple[bool, bool]] = []

    def theirs() -> Iterator[int]:
        inside.append((is_answering(fake), is_answering(other)))
        yield 1

    steps = own_steps(fake, theirs())
    next(steps)

    assert inside == [(True, False)]
    assert not is_answering(fake)
    with answering(fake):
        assert is_answering(fake)


async def test_an_asynchronous_stream_of_a_fake_is_closed_with_ours() -> None:
    closed: list[bool] = []

    async def theirs() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    steps = own_asteps(object(), theirs())
    await anext(steps)
    await steps.aclose()  # type: ignore[attr-defined] # it is a generator

    assert closed == [True]
