"""Virtual time: asyncio unchanged, in no time, and no hang."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aios_core.clock import LoopClock
from aios_core.testing import Deadlock, run_virtual


def test_a_day_of_sleep_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(86_400 * 3)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 86_400 * 3  # in less time than a test may take


def test_timers_ring_at_their_very_instant_and_in_order() -> None:
    rings: list[tuple[str, float]] = []

    async def main() -> None:
        clock = LoopClock(asyncio.get_running_loop())
        for name, when in [("late", 0.3), ("early", 0.1), ("with early", 0.1)]:
            clock.call_at(when, lambda name=name: rings.append((name, clock.now())))
        await asyncio.sleep(1)

    run_virtual(main())

    assert rings == [("early", 0.1), ("with early", 0.1), ("late", 0.3)]


def test_wait_for_gives_up_at_its_timeout() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(100), 2.5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 2.5


def test_a_timeout_that_is_not_reached_costs_no_time() -> None:
    async def main() -> float:
        async with asyncio.timeout(1_000):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 1


def test_a_deadlock_is_raised_and_says_who_waits_where() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"at 3 virtual seconds.*\n.*Event\.wait, at .*locks\.py"):
        run_virtual(_after(3, wait_for_nobody()), thread_wait_s=0)


async def _after(seconds: float, then: object) -> None:
    await asyncio.sleep(seconds)
    await then  # type: ignore[misc]


def test_after_a_deadlock_the_tasks_are_unwound() -> None:
    unwound: list[str] = []

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            unwound.append("main")

    with pytest.raises(Deadlock):
        run_virtual(main(), thread_wait_s=0)

    assert unwound == ["main"]


def test_time_stands_still_while_a_job_is_in_an_executor() -> None:
    may_end = threading.Event()

    async def main() -> tuple[str, float]:
        asyncio.get_running_loop().call_soon(may_end.set)
        async with asyncio.timeout(0.001):
            ended = await asyncio.to_thread(lambda: "yes" if may_end.wait(30) else "no")
        return ended, asyncio.get_running_loop().time()

    assert run_virtual(main()) == ("yes", 0)


def test_another_thread_may_wake_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        caller = threading.Thread(
            target=loop.call_soon_threadsafe, args=(future.set_result, "hello")
        )
        loop.call_soon(caller.start)
        answer = await future
        caller.join()
        return answer

    assert run_virtual(main(), thread_wait_s=30) == "hello"
