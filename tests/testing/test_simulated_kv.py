"""The KV memory of the simulated core: blocks, idle contexts and shared prefixes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from aios_core.core import (
    CoreLoad,
)
from aios_core.snapshot import Snapshot
from aios_core.testing import CostModel

from .simulated_rig import COSTS, Bench, on_bench


def test_waiting_contexts_are_admitted_as_they_fit() -> None:
    async def main(bench: Bench) -> list[float]:
        runs = [bench.go(600, 10) for _ in range(2)]
        return [(await bench.finished(run))[0] for run in runs]

    first, second = on_bench(main)

    assert second == pytest.approx(2 * first)  # one after the other


def test_when_the_memory_is_full_the_last_admitted_computes_again_what_was_evicted() -> None:
    async def main(bench: Bench) -> tuple[list[float], int, int]:
        runs = [bench.go(400, 200) for _ in range(2)]  # 1,200 tokens in the end
        ends = [(await bench.finished(run))[0] for run in runs]
        return ends, bench.core.stats.num_thrashed, bench.core.stats.recomputed_tokens

    ends, num_thrashed, recomputed = on_bench(main)

    assert ends[0] < ends[1]
    assert (num_thrashed, recomputed) == (1, pytest.approx(100, abs=5))


def test_a_thrashed_call_says_what_it_would_have_said() -> None:
    async def main(bench: Bench) -> list[str]:
        runs = [bench.go(400, 200) for _ in range(2)]
        return [(await bench.finished(run))[1].completion.text for run in runs]

    first, second = on_bench(main)

    assert first == second
    assert first == on_bench(main, costs=CostModel(kv_capacity_tokens=100_000))[0]


def test_an_idle_image_makes_room_for_a_call_from_its_end() -> None:
    async def main(bench: Bench) -> tuple[int, int]:
        await bench.finished(bench.go(500, 10))  # leaves its context behind
        before = bench.core.load().kv_tokens
        await bench.finished(bench.go(700, 10))
        return before, bench.core.stats.evicted_tokens

    assert on_bench(main) == (509, 509 + 709 - 1_000)


def test_blocks_are_evicted_from_the_end_of_the_context_that_was_idle_longest() -> None:
    costs = replace(COSTS, block_tokens=16, kv_capacity_tokens=1_024)

    async def main(bench: Bench) -> list[int]:
        for pid in (1, 2):
            await bench.finished(bench.go(400, 1, pid=pid))
        await bench.finished(bench.go(320, 1, pid=3))  # 400 + 400 + 320 is 96 too many
        again = [await bench.finished(bench.go(450, 1, pid=pid, shared=400)) for pid in (2, 1)]
        return [end.completion.usage.cached_tokens for _, end in again]

    second, first = on_bench(main, costs, kv_snapshots=False)

    assert second == 400
    assert 0 < first < 400
    assert first % 16 == 0


def test_a_server_without_images_caches_the_context_of_an_agent_in_whole_blocks() -> None:
    costs = replace(COSTS, block_tokens=16)

    async def main(bench: Bench) -> tuple[int, int, Snapshot | None]:
        _, first = await bench.finished(bench.go(100, 10))
        idle = bench.core.load().kv_tokens
        _, second = await bench.finished(bench.go(150, 10, shared=110))
        return second.completion.usage.cached_tokens, idle, first.context

    assert on_bench(main, costs, kv_snapshots=False) == (96, 0, None)


def test_the_load_has_the_counters_of_the_engine() -> None:
    async def main(bench: Bench) -> CoreLoad:
        for _ in range(2):
            await bench.finished(bench.go(400, 10, shared=300))
        for run in [bench.go(400, 200, pid=pid) for pid in (2, 3)]:
            await bench.finished(run)
        return bench.core.load()

    load = on_bench(main, kv_snapshots=False)

    assert load.num_engine_preemptions == 1
    assert (load.prefix_queried_tokens, load.prefix_hit_tokens) == (1_600, 300)
    assert load.prefill_rate == 1_000


def test_a_shared_prefix_is_computed_and_held_once() -> None:
    async def main(bench: Bench) -> tuple[int, list[int]]:
        await bench.finished(bench.go(400, 1, pid=1, common=300))
        runs = [bench.go(400, 50, pid=pid, common=300) for pid in (2, 3, 4)]
        await asyncio.sleep(3)
        held = bench.core.load().kv_tokens
        ends = [await bench.finished(run) for run in runs]
        return held, [end.completion.usage.cached_tokens for _, end in ends]

    held, cached = on_bench(main, kv_snapshots=False)

    assert cached == [300, 300, 300]
    assert 300 + 3 * 100 < held < 300 + 3 * 150


def test_a_preempted_run_goes_on_from_what_the_server_has_cached() -> None:
    async def main(bench: Bench) -> tuple[int, int]:
        run = bench.go(400, 50)
        await asyncio.sleep(2)
        snapshot = await bench.preempted(run)
        assert snapshot.kv is None
        before = bench.core.stats.prefilled_tokens
        await bench.finished(bench.go(400, 50, snapshot=snapshot))
        return before, bench.core.stats.prefilled_tokens - before

    assert on_bench(main, kv_snapshots=False) == (400, 0)


def test_a_prompt_token_costs_more_at_the_end_of_a_long_context() -> None:
    costs = CostModel(prefill_tokens_per_s=1_000, attention_tokens=1_000)

    assert costs.prefill_s([(0, 100)]) == pytest.approx(0.105)
    assert costs.prefill_s([(1_000, 100)]) == pytest.approx(0.205)


def test_decoding_pays_for_the_contexts_that_it_reads() -> None:
    costs = CostModel(decode_per_sequence_s=0.001, kv_read_tokens_per_s=1_000_000)

    assert costs.decode_s(4, 20_000) == pytest.approx(0.004 + 0.020)
