"""The cost of resuming a suspended sequence, and a test that it is exact.

Cost: one sequence of 1k to 32k tokens is computed (that is what a resume without KV costs), moved
to host memory and to a file, and brought back from each. Exactness: sequences, greedy and sampled,
run alone and uninterrupted; then all together, each interrupted at 1 to 50 random tokens and
resumed from the device, the host, a file or its text alone.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _core_rig import CoreRig
from _random_models import SIZES, Size, prompts, save_random_model
from _report import Row, arguments, show, write
from transformers.utils import logging as transformers_logging

from aios_core.cores.transformers import TransformersCore
from aios_core.cores.transformers.engine import PackedEngine
from aios_core.cores.transformers.kv import DeviceKV, KVAccount, KVSequenceImage
from aios_core.cores.transformers.loading import load_model
from aios_core.cores.transformers.sampling import Sampler
from aios_core.cores.transformers.selfcheck import check_model
from aios_core.cores.transformers.sequence import Sequence
from aios_core.messages import Sampling
from aios_core.snapshot import Snapshot

WINDOW = 40_000
LENGTHS = {"15M": (1_000, 4_000, 8_000, 32_000), "100M": (1_000, 2_000)}
SMALL = Size("2M", hidden=128, layers=4, heads=4)  # for exactness; bfloat16 is slow without AMX
NUM_TOKENS = 52
GREEDY = Sampler(0.0, 1.0, None, 0)
COST_COLUMNS = {
    "model": "{model}",
    "tokens": "{tokens:,}",
    "system": "{system}",
    "MB": "{megabytes:.0f}",
    "suspend": "{suspend_ms:.1f} ms",
    "resume": "{resume_ms:.1f} ms",
    "faster than recomputing": "{speedup:.0f}x",
}
EXACTNESS_COLUMNS = {
    "model": "{model}",
    "number format": "{dtype}",
    "system": "{system}",
    "interruptions": "{interruptions}",
    "sequences that are exact": "{exact} of {sequences}",
}


def measure_costs(size: Size, folder: Path, lengths: tuple[int, ...]) -> list[Row]:
    loaded = load_model(folder)
    layout = check_model(loaded).layout
    if layout is None:
        raise RuntimeError("the model does not run packed")
    account = KVAccount()
    engine = PackedEngine(loaded.model, layout, account, max_step_tokens=1_024)
    rows: list[Row] = []
    for length in lengths:
        sequence = Sequence.of(prompts([length])[0], (), GREEDY)
        recompute_s = timed(partial(prefill, engine, sequence))
        megabytes = layout.bytes_per_token * length / 1e6
        common = {"model": size.name, "tokens": length, "megabytes": megabytes}
        rows.append(
            {"system": "recompute", "suspend_ms": 0.0, "resume_ms": recompute_s * 1e3} | common
        )
        for tier in ("device", "host", "disk"):
            suspend_s, resume_s = move(
                sequence, tier, folder / "kv", lambda image: image.take(layout, account)
            )
            rows.append(
                {
                    "system": f"KV from {tier}",
                    "suspend_ms": suspend_s * 1e3,
                    "resume_ms": resume_s * 1e3,
                }
                | ({} if tier == "device" else {"speedup": recompute_s / resume_s})  # no copy
                | common
            )
        sequence.drop_memory()
    return rows


def prefill(engine: PackedEngine, sequence: Sequence) -> None:
    while not sequence.num_output:
        engine.step([sequence])


def move(
    sequence: Sequence, tier: str, path: Path, take: Callable[[KVSequenceImage], DeviceKV]
) -> tuple[float, float]:
    """Seconds to bring a sequence's memory to a tier and back; the best of three."""
    times = []
    for _ in range(3):
        if not isinstance(sequence.memory, DeviceKV):
            raise TypeError("the sequence has no memory")
        image = KVSequenceImage.of(sequence.memory)
        moves: dict[str, Callable[[], None]] = {
            "device": lambda: None,
            "host": image.to_host,
            "disk": partial(image.to_disk, path),
        }
        suspend_s = timed(moves[tier])
        started = time.perf_counter()
        sequence.memory = take(image)
        times.append((suspend_s, time.perf_counter() - started))
    return min(suspend for suspend, _ in times), min(resume for _, resume in times)


async def measure_exactness(folder: Path, dtype: str, count: int) -> list[Row]:
    core = TransformersCore(folder, dtype=dtype, keep_contexts=True, slots=count)
    rig = CoreRig(core)
    await core.start(rig.sink)
    dice = random.Random(1)
    given = prompts([dice.randrange(5, 200) for _ in range(count)])
    samplings = [
        Sampling(temperature=0.9, top_p=0.95, seed=number) if number % 2 else Sampling()
        for number in range(count)
    ]
    alone = [
        (await rig.generate([prompt], NUM_TOKENS, samplings=[sampling]))[0]
        for prompt, sampling in zip(given, samplings, strict=True)
    ]
    rows: list[Row] = []
    for system, handles in resumes(folder).items():
        places = [set(dice.choices(range(1, NUM_TOKENS), k=dice.randint(1, 50))) for _ in given]
        rig.num_preemptions = 0
        together = await rig.generate(
            given,
            NUM_TOKENS,
            samplings=samplings,
            interrupts=partial(_is_place, places),
            handles=handles,
        )
        exact = sum(a == b for a, b in zip(together, alone, strict=True))
        rows.append(
            {
                "system": system,
                "model": SMALL.name,
                "dtype": dtype,
                "interruptions": rig.num_preemptions,
                "sequences": count,
                "exact": exact,
            }
        )
    await core.close()
    return rows


def resumes(folder: Path) -> dict[str, Callable[[Snapshot], Snapshot]]:
    """The places to which a snapshot may be moved before its sequence is resumed."""

    def to_host(snapshot: Snapshot) -> Snapshot:
        if snapshot.kv is not None:
            snapshot.kv.to_host()
        return snapshot

    def to_disk(snapshot: Snapshot) -> Snapshot:
        if snapshot.kv is not None:
            snapshot.kv.to_disk(folder / f"kv-{id(snapshot)}")
        return snapshot

    def to_text(snapshot: Snapshot) -> Snapshot:
        if snapshot.kv is not None:
            snapshot.kv.release()
        return Snapshot.decode(snapshot.encode())

    return {
        "KV from device": lambda snapshot: snapshot,
        "KV from host": to_host,
        "KV from disk": to_disk,
        "text alone, recomputed": to_text,
    }


def _is_place(places: list[set[int]], number: int, num_tokens: int) -> bool:
    return num_tokens in places[number]


def timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    is_quick = arguments(__doc__).quick
    transformers_logging.disable_progress_bar()
    costs: list[Row] = []
    exactness: list[Row] = []
    with tempfile.TemporaryDirectory() as root:
        for name in ("15M",) if is_quick else LENGTHS:
            folder = save_random_model(SIZES[name], Path(root) / name, WINDOW)
            lengths = LENGTHS[name][:2] if is_quick else LENGTHS[name]
            costs += measure_costs(SIZES[name], folder, lengths)
        folder = save_random_model(SMALL, Path(root) / SMALL.name)
        for dtype in ("float32", "bfloat16"):
            exactness += asyncio.run(measure_exactness(folder, dtype, 4 if is_quick else 24))
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    show("Resuming a suspended sequence", COST_COLUMNS, costs, f"float32, {threads}")
    show("Interrupted output against uninterrupted", EXACTNESS_COLUMNS, exactness, threads)
    write("resume", [*costs, *exactness])


if __name__ == "__main__":
    main()
