"""Load generators and their clocks. Standard library only: it also runs in LiteLLM's environment.

Two questions, two generators. *Closed loop*: every agent calls again as soon as it has
its answer; the calls per second are the system's capacity. *Open loop*: calls arrive at
a fixed rate, whether or not the earlier ones were answered; the latency of each counts
from the instant at which it was due, so a system that falls behind cannot hide it.
Latency in a closed loop is meaningless: at saturation it is agents / capacity.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import threading
import time
from collections.abc import Awaitable, Callable

AsyncCall = Callable[[int], Awaitable[object]]  # by the number of the agent
SyncCall = Callable[[int], object]

RATES = (200, 2_000, 5_000)  # calls per second that are offered
HEADROOM = 1.2  # an open loop is run only where the capacity is that much above the rate
WINDOWS = 3  # of each load: the best one's capacity, the median of latencies
MAIN_RATE = 2_000  # the rate that p50_us and p99_us are reported for, if it is sustained


async def closed_loop(call: AsyncCall, agents: int, seconds: float) -> float:
    """Calls per second at saturation."""
    loop_time = time.perf_counter
    begin = loop_time()
    end = begin + seconds
    done = 0

    async def agent(number: int) -> None:
        nonlocal done
        while loop_time() < end:
            await call(number)
            done += 1

    await asyncio.gather(*map(agent, range(agents)))
    return done / (loop_time() - begin)


async def open_loop(call: AsyncCall, agents: int, rate: float, seconds: float) -> list[float]:
    """Latencies in seconds of calls that are due every 1/rate seconds, agent after agent.

    The generator never sleeps, since a loop's timers are a millisecond coarse.
    """
    latencies: list[float] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int, due_at: float) -> None:
        await call(number % agents)
        latencies.append(time.perf_counter() - due_at)

    begin = time.perf_counter()
    numbers = iter(range(int(rate * seconds)))
    number = next(numbers, None)
    while number is not None:
        now = time.perf_counter()
        while number is not None and begin + number / rate <= now:
            task = asyncio.ensure_future(one(number, begin + number / rate))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number = next(numbers, None)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return latencies


def closed_threads(call: SyncCall, agents: int, seconds: float) -> float:
    """Calls per second at saturation, each agent on a thread of its own."""
    counts = [0] * agents

    def agent(number: int, begin: float) -> None:
        end = begin + seconds
        while time.perf_counter() < end:
            call(number)
            counts[number] += 1

    took = _on_threads(agent, agents)
    return sum(counts) / took


def open_threads(call: SyncCall, agents: int, rate: float, seconds: float) -> list[float]:
    """Latencies in seconds; each thread sleeps until its calls are due.

    They count from when the thread makes the call: the operating system's delay in
    waking a sleeper is not the system's under test.
    """
    latencies: list[list[float]] = [[] for _ in range(agents)]

    def agent(number: int, begin: float) -> None:
        for due in itertools.count(number, agents):
            if due >= rate * seconds:
                return
            wait_s = begin + due / rate - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            called_at = time.perf_counter()
            call(number)
            latencies[number].append(time.perf_counter() - called_at)

    _on_threads(agent, agents)
    return [latency for each in latencies for latency in each]


def _on_threads(agent: Callable[[int, float], None], agents: int) -> float:
    """Run an agent on each of many threads at once. Returns the seconds that it took."""
    ready = threading.Barrier(agents + 1)

    def body(number: int) -> None:
        ready.wait()
        agent(number, time.perf_counter())

    threads = [threading.Thread(target=body, args=(number,)) for number in range(agents)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


async def measure(call: AsyncCall, agents: int, seconds: float) -> dict[str, float]:
    """Capacity, and latencies at the rates below it. `seconds` is for each of them."""
    window = seconds / WINDOWS
    await closed_loop(call, agents, window)  # warm up
    cpu = time.process_time()
    capacity = [await closed_loop(call, agents, window) for _ in range(WINDOWS)]
    figures = _capacity(capacity, time.process_time() - cpu, window)
    for rate in _sustained(figures["per_second"]):
        await asyncio.sleep(0.2)  # what the last load left behind may end
        figures |= _latencies(
            rate, [await open_loop(call, agents, rate, window) for _ in range(WINDOWS)]
        )
    return _with_main_rate(figures)


def measure_threads(call: SyncCall, agents: int, seconds: float) -> dict[str, float]:
    """Measure how many calls agents on threads complete."""
    window = seconds / WINDOWS
    closed_threads(call, agents, window)
    cpu = time.process_time()
    capacity = [closed_threads(call, agents, window) for _ in range(WINDOWS)]
    figures = _capacity(capacity, time.process_time() - cpu, window)
    for rate in _sustained(figures["per_second"]):
        windows = [open_threads(call, agents, rate, window) for _ in range(WINDOWS)]
        figures |= _latencies(rate, windows)
    return _with_main_rate(figures)


def _sustained(capacity: float) -> list[int]:
    return [rate for rate in RATES if rate * HEADROOM <= capacity]


def _capacity(windows: list[float], cpu_s: float, window_s: float) -> dict[str, float]:
    """The best window's rate, and the CPU time of a call over all of them."""
    num_calls = max(1.0, sum(windows) * window_s)
    return {"per_second": max(windows), "cpu_us": 1e6 * cpu_s / num_calls}


def _latencies(rate: int, windows: list[list[float]]) -> dict[str, float]:
    """Each quantile's median over the windows."""
    return {
        f"p{percent}_us_at_{rate}": statistics.median(
            quantile_us(window, percent / 100) for window in windows
        )
        for percent in (50, 99)
    }


def _with_main_rate(figures: dict[str, float]) -> dict[str, float]:
    """Name the quantiles at the main rate, or at the highest sustained one, p50_us and p99_us."""
    if rates := _sustained(figures["per_second"]):
        main = MAIN_RATE if MAIN_RATE in rates else rates[-1]
        figures["p50_us"] = figures[f"p50_us_at_{main}"]
        figures["p99_us"] = figures[f"p99_us_at_{main}"]
        figures["offered_per_second"] = main
    return figures


def quantile_us(values: list[float], q: float) -> float:
    """Nearest rank, in microseconds."""
    ordered = sorted(values)
    return 1e6 * ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]
