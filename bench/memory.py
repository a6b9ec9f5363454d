"""Memory: blocks read and written, against a dictionary and plain SQLite; LRU-K against LRU.

python bench/memory.py [--quick]
"""

from __future__ import annotations

import asyncio
import bisect
import gc
import random
import sqlite3
import tempfile
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from _report import arguments, quantile, show, write

from aios_core import Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.memory.lru_k import LruK
from aios_core.memory.requests import MemoryRead, MemoryWrite

PAGE = 16_384
CALL_CAPTION = (
    "One block of one page (16 KiB), on the kernel's loop. perform: the manager alone; syscall: "
    "with the access check,\nthe audit and the books. Swapped: the page was evicted before each "
    "read. Writes of 1 KiB are durable; one at a time, or 64."
)
HIT_CAPTION = (
    "Share of references that found their page resident. Belady knows the future: no policy can do "
    "better."
)


def kernel_on(directory: Path, **memory: Any) -> Kernel:
    config = KernelConfig(state={"directory": str(directory)}, memory=memory, drain_s=0.0)
    return Kernel(config, cores=[ScriptedCore("ok")])


async def timed(
    name: str, step: Callable[[], Awaitable[object]], number: int, **facts: Any
) -> dict[str, Any]:
    """Times of `number` steps, one after the other."""
    took = []
    for _ in range(number):
        began = time.perf_counter()
        await step()
        took.append(time.perf_counter() - began)
    return {
        "what": name,
        "p50_us": 1e6 * quantile(took, 0.5),
        "p99_us": 1e6 * quantile(took, 0.99),
        "per_second": number / sum(took),
        **facts,
    }


async def blocks(directory: Path, number: int) -> list[dict[str, Any]]:
    """Reads and writes of blocks."""
    data, small = random.Random(1).randbytes(PAGE), b"x" * 1_024
    table = {"block": data}

    async def from_dict() -> bytes:
        return table["block"]

    rows = [await timed("dictionary: read", from_dict, number)]
    async with kernel_on(directory) as kernel:
        agent = await kernel.aspawn("alice")
        await agent.memory.awrite("block", data)
        manager, process = kernel._inside.parts.memory, agent._process  # noqa: SLF001

        async def swapped() -> Any:
            manager.forget(process)
            return await agent.memory.aread("block")

        async def perform() -> Any:
            return await manager.perform(process, MemoryRead("block"))

        rows.append(await timed("memory: read, resident (perform)", perform, number))
        rows.append(
            await timed(
                "memory: read, resident (syscall)", lambda: agent.memory.aread("block"), number
            )
        )
        rows.append(await timed("memory: read, swapped (syscall)", swapped, number // 20))

        async def perform_write() -> Any:
            return await manager.perform(process, MemoryWrite("small", small))

        async def write_one() -> Any:
            return await agent.memory.awrite("small", small)

        few = number // 20
        rows.append(await timed("memory: write, one at a time (perform)", perform_write, few))
        rows.append(await timed("memory: write, one at a time (syscall)", write_one, few))

        async def burst() -> None:
            writes = (agent.memory.awrite(f"small {n}", small) for n in range(64))
            await asyncio.gather(*writes)

        row = await timed("memory: write, 64 at a time (syscall)", burst, max(3, number // 1_000))
        rows.append({**row, "per_second": 64 * row["per_second"]})
    return rows


async def plain_sqlite(directory: Path, number: int) -> list[dict[str, Any]]:
    """Write and read through the library's SQLite: WAL, synchronous=FULL, a commit each."""
    connection = sqlite3.connect(directory / "plain.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (name TEXT PRIMARY KEY, data BLOB)")
    connection.execute("INSERT INTO t VALUES ('block', ?)", (random.Random(1).randbytes(PAGE),))

    async def read() -> object:
        return connection.execute("SELECT data FROM t WHERE name = 'block'").fetchone()

    async def put() -> object:
        return connection.execute("INSERT OR REPLACE INTO t VALUES ('small', ?)", (b"x" * 1_024,))

    rows = [
        await timed("SQLite alone: read", read, number // 4),
        await timed("SQLite alone: write, a commit each", put, number // 20),
    ]
    connection.close()
    return rows


# --- hit rates --------------------------------------------------------------------------------


def zipf(num_pages: int, length: int, chance: random.Random) -> list[int]:
    """A skewed trace: page n is used in proportion to 1/n."""
    cumulated = list(accumulate(1 / (page + 1) for page in range(num_pages)))
    return [bisect.bisect(cumulated, chance.random() * cumulated[-1]) for _ in range(length)]


def scanned(num_pages: int, length: int, chance: random.Random) -> list[int]:
    """The skewed trace with passes over other pages in between: half of the references."""
    trace: list[int] = []
    skewed = zipf(num_pages, length, chance)
    for start in range(0, length // 2, num_pages // 2):
        trace += skewed[start : start + num_pages // 2]
        trace += range(num_pages, num_pages + num_pages // 2)
    return trace


def two_pools(num_pages: int, length: int, chance: random.Random) -> list[int]:
    """The paper's first experiment: index pages and record pages in turn."""
    hot = num_pages // 100
    return [
        chance.randrange(hot) if step % 2 else hot + chance.randrange(num_pages)
        for step in range(length)
    ]


def lru_k_hits(trace: Sequence[int], size: int, k: int) -> float:
    policy, hits = LruK[int](k, max_retained=4 * size), 0
    for now, page in enumerate(trace):
        if page in policy:
            hits += 1
        elif len(policy) >= size:
            policy.victim(now, is_pressing=True)
        policy.touch(page, now)
    return hits / len(trace)


def lru_hits(trace: Sequence[int], size: int) -> float:
    pages: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for page in trace:
        if page in pages:
            hits += 1
            pages.move_to_end(page)
            continue
        if len(pages) >= size:
            pages.popitem(last=False)
        pages[page] = None
    return hits / len(trace)


def belady_hits(trace: Sequence[int], size: int) -> float:
    """Count the hits of Belady's rule: evict the page with the next use farthest ahead."""
    following = [len(trace)] * len(trace)
    seen: dict[int, int] = {}
    for at in range(len(trace) - 1, -1, -1):
        following[at] = seen.get(trace[at], len(trace))
        seen[trace[at]] = at
    pages: dict[int, int] = {}
    hits = 0
    for at, page in enumerate(trace):
        if page in pages:
            hits += 1
        elif len(pages) >= size:
            del pages[max(pages, key=pages.__getitem__)]
        pages[page] = following[at]
    return hits / len(trace)


def hit_rates(length: int) -> list[dict[str, Any]]:
    rows = []
    for make in (zipf, scanned, two_pools):
        for size in (50, 100, 200):
            trace = make(1_000, length, random.Random(7))
            rows.append(
                {
                    "what": f"{make.__name__}, {size} of {len(set(trace)):,} pages",
                    "lru": lru_hits(trace, size),
                    **{f"lru_{k}": lru_k_hits(trace, size, k) for k in (1, 2, 3)},
                    "belady": belady_hits(trace, size),
                }
            )
    return rows


# --- agents -----------------------------------------------------------------------------------


async def agents(directory: Path, number: int) -> list[dict[str, Any]]:
    """Measure the memory of an agent with one block of 1 KiB, resident and evicted."""
    rows, chance = [], random.Random(1)
    async with kernel_on(directory) as kernel:
        living = [await kernel.aspawn(f"agent {n}") for n in range(number)]
        gc.collect()
        tracemalloc.start()
        began = time.perf_counter()
        for start in range(0, number, 256):
            some = living[start : start + 256]
            writes = (agent.memory.awrite("notes", chance.randbytes(1_024)) for agent in some)
            await asyncio.gather(*writes)
        took = time.perf_counter() - began
        gc.collect()
        resident = tracemalloc.get_traced_memory()[0]
        manager = kernel._inside.parts.memory  # noqa: SLF001
        for pages in manager._residents._residents.values():  # noqa: SLF001
            manager._residents.resident_bytes -= pages.evict(1 << 30, 1e9)  # noqa: SLF001
        gc.collect()
        swapped = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        began = time.perf_counter()
        for agent in living:
            await agent.memory.aread("notes")
        back = time.perf_counter() - began
        rows.append(
            {
                "what": f"{number:,} agents",
                "agents": number,
                "resident_kb": resident / number / 1_024,
                "swapped_kb": swapped / number / 1_024,
                "first_write_us": 1e6 * took / number,
                "swap_in_us": 1e6 * back / number,
            }
        )
    return rows


def main() -> None:
    quick = arguments(__doc__).quick
    number = 2_000 if quick else 20_000
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        calls = asyncio.run(blocks(directory / "blocks", number))
        calls += asyncio.run(plain_sqlite(directory, number))
        columns = {
            "call": "{what}",
            "p50": "{p50_us:.1f} us",
            "p99": "{p99_us:.1f} us",
            "per second": "{per_second:,.0f}",
        }
        show("Reads and writes of blocks", columns, calls, CALL_CAPTION)
        rates = hit_rates(20_000 if quick else 100_000)
        columns = {
            "trace": "{what}",
            "LRU": "{lru:.3f}",
            "LRU-1": "{lru_1:.3f}",
            "LRU-2": "{lru_2:.3f}",
            "LRU-3": "{lru_3:.3f}",
            "Belady": "{belady:.3f}",
        }
        show("Hit rates", columns, rates, HIT_CAPTION)
        costs = asyncio.run(agents(directory / "agents", 1_000 if quick else 10_000))
        columns = {
            "": "{what}",
            "resident": "{resident_kb:.1f} KB",
            "swapped": "{swapped_kb:.1f} KB",
            "first write": "{first_write_us:.0f} us",
            "swap in": "{swap_in_us:.0f} us",
        }
        show("Cost of an agent's memory: one block of 1 KiB (traced)", columns, costs)
    write("memory", [*calls, *rates, *costs])


if __name__ == "__main__":
    main()
