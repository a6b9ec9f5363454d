"""The caller that waits gets the outcome, on any thread or loop, and no other caller does."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from aios_core import Completion, Delta, FinishReason, KernelBug, Message, SyscallCancelled, Usage
from aios_core.kernel.loop_thread import LoopThread
from aios_core.kernel.port import LocalAnswer, LoopAnswer, ThreadAnswer
from aios_core.kernel.streams import AsyncStream, Stream
from tests.puppet import PATIENCE, settled, virtual

ANSWER = Completion(Message("assistant", "hi"), FinishReason.STOP, Usage(1, 1), "m")


class Withdrawals:
    """Counts how often a call was withdrawn."""

    def __init__(self) -> None:
        self.count = 0

    def withdraw(self) -> None:
        self.count += 1


def test_a_waiting_thread_hears_an_answer_from_another_thread() -> None:
    answer = ThreadAnswer()

    threading.Timer(0.01, answer.resolve, [ANSWER]).start()

    assert answer.future.result(PATIENCE) is ANSWER


@virtual
async def test_an_abandoned_await_on_the_loop_swallows_its_answer() -> None:
    answer = LocalAnswer(asyncio.get_running_loop())
    answer.future.cancel()

    answer.resolve(ANSWER)
    answer.reject(SyscallCancelled("late"))

    assert answer.future.cancelled()


async def test_another_loop_hears_an_error_from_a_thread() -> None:
    answer = LoopAnswer(asyncio.get_running_loop())

    threading.Thread(target=answer.reject, args=[SyscallCancelled("gone")]).start()

    with pytest.raises(SyscallCancelled, match="gone"):
        await asyncio.wait_for(answer.future, PATIENCE)


def test_an_answer_to_a_closed_loop_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    answer = LoopAnswer(loop)
    loop.close()

    answer.resolve(ANSWER)

    assert not answer.future.done()


def test_a_stream_hands_out_deltas_and_then_the_completion() -> None:
    stream = Stream()
    stream.answer.delta(Delta("h"))
    stream.answer.delta(Delta("i"))
    stream.answer.resolve(ANSWER)

    assert [delta.text for delta in stream] == ["h", "i"]
    assert stream.completion is ANSWER
    assert list(stream) == [], "an exhausted stream stays exhausted"


def test_a_stream_raises_what_ended_it_once() -> None:
    stream = Stream()
    stream.answer.delta(Delta("h"))
    stream.answer.reject(SyscallCancelled("gone"))

    assert next(stream).text == "h"
    with pytest.raises(SyscallCancelled, match="gone"):
        next(stream)
    assert list(stream) == []


def test_the_completion_of_an_unfinished_stream_is_a_bug_of_its_reader() -> None:
    with pytest.raises(KernelBug, match="not ended"):
        _ = Stream().completion


def test_leaving_a_stream_early_withdraws_its_call_once() -> None:
    stream, call = Stream(), Withdrawals()
    stream.call = call

    with stream:
        stream.answer.delta(Delta("h"))
        next(stream)
    stream.close()

    assert call.count == 1


def test_a_stream_that_ended_withdraws_nothing() -> None:
    stream, call = Stream(), Withdrawals()
    stream.call = call
    stream.answer.resolve(ANSWER)

    with stream:
        list(stream)

    assert call.count == 0


@virtual
async def test_leaving_an_async_stream_early_withdraws_its_call_once() -> None:
    stream, call = AsyncStream(asyncio.get_running_loop(), is_local=True), Withdrawals()
    stream.call = call

    async with stream:
        stream.answer.delta(Delta("h"))
        await anext(stream)
    await stream.aclose()

    assert call.count == 1


@virtual
async def test_cancelling_who_waits_on_an_async_stream_withdraws_its_call() -> None:
    stream, call = AsyncStream(asyncio.get_running_loop(), is_local=True), Withdrawals()
    stream.call = call
    reader = asyncio.ensure_future(anext(stream))
    await settled()

    reader.cancel()
    await asyncio.wait([reader])

    assert call.count == 1


async def test_an_async_stream_hears_deltas_from_a_thread_in_order() -> None:
    stream = AsyncStream(asyncio.get_running_loop(), is_local=False)

    def speak() -> None:
        for word in "abcdefgh":
            stream.answer.delta(Delta(word))
        stream.answer.resolve(ANSWER)

    threading.Thread(target=speak).start()
    async with asyncio.timeout(PATIENCE):
        heard = [delta.text async for delta in stream]

    assert "".join(heard) == "abcdefgh"
    assert stream.completion is ANSWER


def test_a_forgotten_stream_withdraws_its_call() -> None:
    stream, call = Stream(), Withdrawals()
    stream.call, held_by_the_kernel = call, stream.answer

    del stream
    gc.collect()
    held_by_the_kernel.delta(Delta("for nobody"))

    assert call.count == 1


def test_a_loop_thread_runs_work_and_leaves_nothing() -> None:
    thread = LoopThread("aios-test")

    async def name() -> str:
        return threading.current_thread().name

    assert thread.run(name()) == "aios-test"
    thread.close()
    thread.close()

    assert thread.loop.is_closed()


@pytest.mark.parametrize("fault", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_whoever_ends_the_program_on_a_loop_thread_ends_nobody_elses_work(
    fault: BaseException,
) -> None:
    thread = LoopThread()

    async def end() -> None:
        raise fault

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    with pytest.raises(type(fault)):
        thread.run(end())

    assert thread.run(work()) == "done"
    thread.close()
