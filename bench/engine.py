"""Speed of the in-process core: tokens per second against transformers' own ways to batch.

All four get equal random-weight models, prompts and numbers of tokens: `model.generate` (one padded
batch), transformers' continuous batching, the core, and the core with every run preempted and
resumed every 16 tokens. Each is timed several times in turn, and its best time counts: other
programs on the machine can only slow it down. The ratio is to the better of the first two.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _core_rig import CoreRig
from _random_models import SIZES, Size, prompts, save_random_model
from _report import arguments, show, write
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from aios_core.cores.transformers import TransformersCore

BATCHES = (1, 8, 32)
NUM_TOKENS = {"15M": 64, "100M": 24}
GENERATE, CONTINUOUS, CORE, PREEMPTED = (
    "model.generate, batched",
    "transformers continuous batching",
    "aios core",
    "aios core, preempted every 16",
)
COLUMNS = {
    "model": "{model}",
    "batch": "{batch}",
    "system": "{system}",
    "tokens/s": "{tokens_per_s:.0f}",
    "of the better": "{ratio:.2f}",
}

Timed = Callable[[], Coroutine[Any, Any, object]]


def every_16(_number: int, num_tokens: int) -> bool:
    return num_tokens % 16 == 0


def generate(model: Any, batch: list[list[int]], num_tokens: int) -> None:
    """The usual way: pad on the left, one batch until the last is done."""
    width = max(map(len, batch))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in batch])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in batch])
    out = model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        min_new_tokens=num_tokens,
        max_new_tokens=num_tokens,
        pad_token_id=0,
    )
    if out.shape[1] != width + num_tokens:
        raise RuntimeError(f"generate wrote {out.shape[1] - width} of {num_tokens} tokens")


def generate_continuously(model: Any, batch: list[list[int]], num_tokens: int) -> None:
    config = GenerationConfig(
        max_new_tokens=num_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    out = model.generate_batch(
        batch,
        generation_config=config,
        progress_bar=False,
        persistent_manager=True,  # else each call would pay seconds of start-up
    )
    if any(len(one.generated_tokens) != num_tokens for one in out.values()):
        raise RuntimeError("continuous batching wrote fewer tokens than it was asked for")


async def measure(
    size: Size, folder: Path, batches: tuple[int, ...], repeats: int
) -> list[dict[str, Any]]:
    """Rows of one model."""
    save_random_model(size, folder)
    native = AutoModelForCausalLM.from_pretrained(folder).eval()
    paged = AutoModelForCausalLM.from_pretrained(folder).eval()
    core = TransformersCore(folder, slots=max(batches), kv_tokens=1_000_000)
    rig = CoreRig(core)
    await core.start(rig.sink)
    num_tokens, rows = NUM_TOKENS[size.name], []
    generate_continuously(paged, prompts([112] * max(batches)), 4)  # starts its manager
    for batch in batches:
        given = prompts([48 + 64 * i // batch for i in range(batch)])
        systems: dict[str, Timed] = {
            GENERATE: partial(asyncio.to_thread, generate, native, given, num_tokens),
            CORE: partial(rig.generate, given, num_tokens),
            PREEMPTED: partial(rig.generate, given, num_tokens, interrupts=every_16),
            CONTINUOUS: partial(asyncio.to_thread, generate_continuously, paged, given, num_tokens),
        }
        best = await best_times(systems, repeats)
        rates = {system: batch * num_tokens / best[system] for system in best}
        baseline = max(rates[GENERATE], rates.get(CONTINUOUS, 0.0))
        rows += [
            {
                "system": system,
                "model": size.name,
                "batch": batch,
                "tokens_per_s": rate,
                "ratio": rate / baseline,
            }
            for system, rate in rates.items()
        ]
    paged.destroy_cached_continuous_batching_manager()
    await core.close()
    return rows


async def best_times(systems: dict[str, Timed], repeats: int) -> dict[str, float]:
    """Seconds of each system's fastest repeat; the slow baseline is not repeated as often."""
    best: dict[str, float] = {}
    for repeat in range(repeats):
        for system, run in systems.items():
            if system == CONTINUOUS and repeat >= max(1, repeats // 2):
                continue
            gc.collect()
            started = time.perf_counter()
            await run()
            elapsed = time.perf_counter() - started
            best[system] = min(elapsed, best.get(system, elapsed))
    return best


def main() -> None:
    is_quick = arguments(__doc__).quick
    logging.disable(logging.ERROR)  # continuous batching misses psutil, loudly
    transformers_logging.disable_progress_bar()
    rows: list[dict[str, Any]] = []
    for size in [SIZES["15M"]] if is_quick else SIZES.values():
        with tempfile.TemporaryDirectory() as folder:
            repeats = 2 if is_quick or size.name == "100M" else 4
            rows += asyncio.run(measure(size, Path(folder), BATCHES, repeats))
    caption = f"{torch.get_num_threads()} threads, float32, torch {torch.__version__}"
    show("Throughput of the in-process core", COLUMNS, rows, caption)
    write("engine", rows)


if __name__ == "__main__":
    main()
