"""Read the state of a vLLM server's engine from its `/metrics` page. Pure.

`kv_cache_usage_perc` counts the blocks of *running* requests only. The cached contexts of agents
that wait for a tool are free blocks to vLLM, until it needs them. So a low usage does not mean
that all contexts fit: the share of prefix hits shows that.

Source: vLLM's "Production Metrics"; the loggers of version 0.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

from aios_core.cores.openai.engine_signals import (
    EngineSignals,
    MetricsReader,
    Sample,
    count,
    mean_of_histogram,
    share,
    tokens,
    whole_label,
)

_IDLE: Final = "kv_block_idle_before_evict_seconds"  # only with --kv-cache-metrics
_READER: Final = MetricsReader(
    "vllm:",
    (
        "cache_config_info",
        "kv_cache_usage_perc",
        "gpu_cache_usage_perc",  # its name up to version 0.9
        "num_requests_running",
        "num_requests_waiting",
        "num_preemptions_total",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        f"{_IDLE}_sum",
        f"{_IDLE}_count",
    ),
)


def read_vllm(page: str) -> EngineSignals:
    """Return the signals of a vLLM server, over all of its engines."""
    found = _READER.samples(page)

    def of(name: str) -> Sequence[Sample]:
        return found.get(name, ())

    capacity = _capacity(of("cache_config_info"))
    used = share(of("kv_cache_usage_perc") or of("gpu_cache_usage_perc"))
    return EngineSignals(
        kv_tokens=round((used or 0.0) * (capacity or 0)),
        kv_capacity=capacity,
        num_running=count(of("num_requests_running")),
        num_waiting=count(of("num_requests_waiting")),
        num_preemptions=count(of("num_preemptions_total")),
        prefix_queried_tokens=count(of("prefix_cache_queries_total")),
        prefix_hit_tokens=count(of("prefix_cache_hits_total")),
        idle_before_evict_s=mean_of_histogram(
            of(f"{_IDLE}_sum"), of(f"{_IDLE}_count"), lambda mean: isfinite(mean) and mean >= 0
        ),
    )


def _capacity(configs: Sequence[Sample]) -> int | None:
    """Return the tokens of the KV memory; there is one configuration for each engine.

    Newer servers state the tokens of one engine, which is right for models with several kinds
    of layers, too. `num_gpu_blocks` is the sum over the engines already.
    """
    stated = tokens(whole_label(config, "kv_cache_size_tokens") for config in configs)
    return stated or tokens([max(map(_tokens_of_blocks, configs), default=0)])


def _tokens_of_blocks(config: Sample) -> int:
    num_blocks, size = (whole_label(config, name) for name in ("num_gpu_blocks", "block_size"))
    return (num_blocks or 0) * (size or 0)
