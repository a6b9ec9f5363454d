"""The simulated core: the contract of every core, and the arithmetic of its cost model."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.core import (
    Core,
    CoreDown,
    Failed,
    Finished,
    Preempted,
    Progress,
    Report,
    Run,
    Stopped,
)
from aios_core.errors import SnapshotError
from aios_core.messages import Message, Sampling
from aios_core.snapshot import Snapshot, Tier
from aios_core.syscalls import LLMGenerate
from aios_core.testing import CostModel, SimulatedCore
from aios_core.testing.core_contract import CoreContract

from .simulated_rig import COSTS, Bench, on_bench


class TestContract(CoreContract):
    def make_core(self) -> Core:
        return SimulatedCore(costs=CostModel(decode_step_s=0.001), report_every=1)


class TestContractWithRareReports(CoreContract):
    def make_core(self) -> Core:
        return SimulatedCore(costs=CostModel(decode_step_s=0.001), report_every=4)


# --- time ---------------------------------------------------------------------------------------


def test_a_call_alone_pays_its_prefill_then_a_step_for_each_token() -> None:
    async def main(bench: Bench) -> float:
        return (await bench.finished(bench.go(50, 10)))[0]

    # One step of prefill, which emits the first token, and nine of decoding.
    assert on_bench(main) == pytest.approx(0.10 + 0.05 + 9 * 0.11)


def test_a_long_prompt_is_computed_in_chunks() -> None:
    async def main(bench: Bench) -> float:
        return (await bench.finished(bench.go(250, 1)))[0]

    assert on_bench(main) == pytest.approx(3 * 0.10 + 0.250)


def test_a_batch_is_faster_than_its_calls_one_by_one() -> None:
    async def main(bench: Bench) -> float:
        runs = [bench.go(2, 20) for _ in range(4)]
        return max([(await bench.finished(run))[0] for run in runs])

    assert on_bench(main) == pytest.approx(0.10 + 4 * 0.002 + 19 * 0.14)


def test_a_newcomer_joins_at_the_next_step() -> None:
    async def main(bench: Bench) -> list[float]:
        first = bench.go(1, 100)
        await asyncio.sleep(0.11 * 5 + 0.05)  # in the sixth step
        second = bench.go(1, 1)
        return [(await bench.finished(run))[0] for run in (second, first)]

    assert on_bench(main) == pytest.approx([6 * 0.11 + 0.12, 100 * 0.11 + 0.01])


def test_progress_comes_at_the_first_token_and_then_every_so_many() -> None:
    async def main(bench: Bench) -> list[int]:
        run = bench.go(50, 40)
        await bench.finished(run)
        return [r.num_tokens for _, r in bench.log if isinstance(r, Progress)]

    assert on_bench(main) == [1, 15, 16, 8]


def test_steps_taken_at_once_end_when_single_ones_would() -> None:
    async def main(bench: Bench) -> list[float]:
        rng, runs = random.Random(7), []
        for _ in range(30):
            runs.append(bench.go(rng.randint(1, 200), rng.randint(1, 120)))
            await asyncio.sleep(rng.random())
        return [(await bench.finished(run))[0] for run in runs]

    assert on_bench(main) == pytest.approx(on_bench(main, report_every=1))


def test_the_same_load_runs_the_same_way_each_time() -> None:
    async def main(bench: Bench) -> list[tuple[float, str]]:
        runs = [bench.go(50 + i, 100) for i in range(12)]
        for run in runs:
            await bench.finished(run)
        return [(at, repr(report)) for at, report in bench.log if isinstance(report, Progress)]

    assert on_bench(main) == on_bench(main)


# --- suspend and resume -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["device", "host", "disk", "nowhere"])
def test_a_resumed_call_says_what_it_would_have_said(where: str, tmp_path: Path) -> None:
    async def interrupted(bench: Bench) -> str:
        run = bench.go(90, 60)
        await asyncio.sleep(3)
        snapshot = await bench.preempted(run)
        assert 0 < len(snapshot.output_ids) < 60
        image = snapshot.kv
        assert image is not None
        if where == "host":
            image.to_host()
        elif where == "disk":
            image.to_disk(tmp_path / "image.safetensors")
        elif where == "nowhere":
            image.release()
        return (await bench.finished(bench.go(90, 60, snapshot=snapshot)))[1].completion.text

    async def uninterrupted(bench: Bench) -> str:
        return (await bench.finished(bench.go(90, 60)))[1].completion.text

    assert on_bench(interrupted) == on_bench(uninterrupted)
    assert not list(tmp_path.iterdir())


def test_resuming_from_kv_saves_the_prefill() -> None:
    async def main(bench: Bench) -> tuple[float, float]:
        def now() -> float:
            return asyncio.get_running_loop().time()

        times = []
        for with_kv in (True, False):
            run = bench.go(600, 20)
            await asyncio.sleep(1.5)
            snapshot = await bench.preempted(run)
            if not with_kv and snapshot.kv:
                snapshot.kv.release()
            began = now()
            await bench.finished(bench.go(600, 20, snapshot=snapshot))
            times.append(now() - began)
        return times[0], times[1]

    kv, text = on_bench(main)

    assert text - kv == pytest.approx(0.6, abs=0.6)
    assert text > kv + 0.6


def test_an_image_on_the_host_holds_no_kv_and_costs_a_stall_each_way() -> None:
    async def main(bench: Bench) -> tuple[int, int, int]:
        run = bench.go(100, 20)
        await asyncio.sleep(1)
        snapshot = await bench.preempted(run)
        assert snapshot.kv is not None
        on_device = bench.core.load().kv_tokens
        snapshot.kv.to_host()
        assert snapshot.kv.tier is Tier.HOST
        on_host = bench.core.load().kv_tokens
        await bench.finished(bench.go(100, 20, snapshot=snapshot))
        return on_device, on_host, bench.core.stats.swapped_tokens

    on_device, on_host, swapped = on_bench(main)

    assert (on_host, swapped) == (0, 2 * on_device)
    assert on_device > 100


def test_a_snapshot_of_another_model_fails_its_run() -> None:
    async def main(bench: Bench) -> Report:
        return (await bench.end(bench.go(10, 10, snapshot=Snapshot(model="other"))))[1]

    report = on_bench(main)

    assert isinstance(report, Failed)
    assert isinstance(report.error, SnapshotError)


def test_a_waiting_run_that_is_preempted_hands_its_snapshot_back() -> None:
    async def main(bench: Bench) -> tuple[Snapshot, Snapshot]:
        run = bench.go(100, 50)
        await asyncio.sleep(1)
        brought = await bench.preempted(run)
        bench.go(850, 100)  # fills the device
        run = bench.go(100, 50, snapshot=brought)
        return brought, await bench.preempted(run)

    brought, handed_back = on_bench(main)

    assert handed_back.output_ids == brought.output_ids


# --- warm contexts ------------------------------------------------------------------------------


def test_a_warm_context_saves_what_the_prompts_have_in_common() -> None:
    async def main(bench: Bench) -> tuple[int, int]:
        _, first = await bench.finished(bench.go(500, 10))
        _, second = await bench.finished(bench.go(530, 10, warm=first.context, shared=505))
        return second.completion.usage.cached_tokens, bench.core.stats.prefilled_tokens

    assert on_bench(main) == (505, 500 + 25)


def test_a_conversation_that_goes_on_is_warm_without_being_told() -> None:
    async def main(bench: Bench) -> tuple[int, int]:
        core, sampling = bench.core, Sampling(max_tokens=10)
        first = LLMGenerate((Message("user", "What is a kernel?"),), sampling=sampling)
        core.run(Run(101, 1, first, core.prepare(first)))
        _, end = await bench.finished(101)
        assert end.context is not None
        more = (*first.messages, end.completion.message, Message("user", "And then?"))
        second = LLMGenerate(more, sampling=sampling)
        core.run(Run(102, 1, second, core.prepare(second), warm=end.context))
        _, end_of_second = await bench.finished(102)
        return end_of_second.completion.usage.cached_tokens, end.context.num_tokens

    cached, context = on_bench(main)

    assert cached == context - 1  # the last generated token has no KV yet


# --- ends ---------------------------------------------------------------------------------------


def test_a_cancelled_call_leaves_its_slot_at_the_end_of_the_step() -> None:
    async def main(bench: Bench) -> tuple[float, Report]:
        run = bench.go(1, 900)
        await asyncio.sleep(0.11 * 20 + 0.01)
        bench.core.cancel(run)
        return await bench.end(run)

    at, report = on_bench(main)

    assert at == pytest.approx(0.11 * 21)
    assert isinstance(report, Stopped)
    assert report.usage.output_tokens == 21


def test_a_crash_fails_every_run_then_reports_the_core_down() -> None:
    async def main(bench: Bench) -> list[Report]:
        bench.go(10, 100)
        bench.go(990, 5)
        await asyncio.sleep(1)
        bench.core.crash()
        assert not bench.core.load().is_up
        return [report for _, report in bench.log if not isinstance(report, Progress)]

    kinds = [type(report) for report in on_bench(main)]

    assert kinds == [Failed, Failed, CoreDown]


def test_a_stop_string_ends_the_answer_before_it() -> None:
    async def main(bench: Bench) -> tuple[str, str]:
        _, whole = await bench.finished(bench.go(10, 20))
        word = whole.completion.text.split()[5]
        _, cut = await bench.finished(bench.go(10, 20, sampling=Sampling(stop=(word,))))
        return whole.completion.text, cut.completion.text + word

    whole, cut = on_bench(main)

    assert whole.startswith(cut)


def test_seeds_differ_and_repeat() -> None:
    async def main(bench: Bench) -> list[str]:
        texts = []
        for seed in (1, 2, 1):
            sampling = Sampling(temperature=0.8, seed=seed)
            texts.append((await bench.finished(bench.go(10, 20, sampling=sampling)))[1])
        return [end.completion.text for end in texts]

    one, two, one_again = on_bench(main)

    assert one == one_again != two


# --- any order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_snapshots", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_any_mixture_of_calls_ends_each_run_once_and_exactly(
    seed: int,
    kv_snapshots: bool,
) -> None:
    """Runs, preemptions, resumptions, swaps and cancellations at random on a crowded device."""

    async def main(bench: Bench) -> None:
        rng, live, lengths = random.Random(seed), [], {}
        for _ in range(60):
            prompt, output = rng.randint(1, 400), rng.randint(1, 150)
            run = bench.go(prompt, output, pid=rng.randint(1, 9), common=rng.choice((0, 64)))
            live.append(run)
            lengths[run] = (prompt, output)
            await asyncio.sleep(rng.random() * 3)
            victim = rng.choice(live)
            if rng.random() < 0.2:
                bench.core.cancel(victim)
            elif rng.random() < 0.5 and not bench.ends(victim):
                bench.core.preempt(victim)
                _, end = await bench.end(victim)
                if isinstance(end, Preempted):
                    if end.snapshot.kv and rng.random() < 0.5:
                        end.snapshot.kv.to_host()
                    resumed = bench.go(*lengths[victim], snapshot=end.snapshot)
                    live.append(resumed)
                    lengths[resumed] = lengths[victim]
        for run in live:
            await bench.end(run)
            assert len(bench.ends(run)) == 1
        for _, report in bench.log:
            if isinstance(report, Finished):
                assert len(report.completion.text) == 4 * lengths[report.run_id][1]
        assert bench.core.load().num_running == 0

    on_bench(main, replace(COSTS, block_tokens=8), kv_snapshots=kv_snapshots)
