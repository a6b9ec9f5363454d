"""Read the state of an SGLang server from its `/metrics` page (`--enable-metrics`). Pure.

Each data-parallel rank reports its own memory, and may do so once for each of its tensor- and
pipeline-parallel workers. `num_used_tokens` counts running requests only; cached contexts that
may be evicted count as free.

Source: SGLang's "Production Metrics"; its collector of metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from aios_core.cores.openai.engine_signals import (
    EngineSignals,
    MetricsReader,
    Sample,
    count,
    share,
    tokens,
    whole_label,
)
from aios_core.untrusted.reported_numbers import whole_number

_READER: Final = MetricsReader(
    "sglang:",
    (
        "max_total_num_tokens",
        "cache_config_info",
        "token_usage",
        "num_running_reqs",
        "num_queue_reqs",
        "num_retracted_requests_total",
        "prompt_tokens_total",
        "cached_tokens_total",
    ),
)


def read_sglang(page: str) -> EngineSignals:
    """Return the signals of an SGLang server, over its data-parallel ranks."""
    found = {name: _one_worker(samples) for name, samples in _READER.samples(page).items()}

    def of(name: str) -> Sequence[Sample]:
        return found.get(name, ())

    capacity = tokens(map(_stated, of("max_total_num_tokens"))) or tokens(
        map(_tokens_of_pages, of("cache_config_info"))
    )
    return EngineSignals(
        kv_tokens=round((share(of("token_usage")) or 0.0) * (capacity or 0)),
        kv_capacity=capacity,
        num_running=count(of("num_running_reqs")),
        num_waiting=count(of("num_queue_reqs")),
        num_preemptions=count(of("num_retracted_requests_total")),
        prefix_queried_tokens=count(of("prompt_tokens_total")),
        prefix_hit_tokens=count(of("cached_tokens_total")),
    )


def _one_worker(samples: Iterable[Sample]) -> list[Sample]:
    """Keep one of several workers that report the same memory or the same requests."""
    first: dict[tuple[tuple[str, str], ...], Sample] = {}
    for sample in samples:
        own = {k: v for k, v in sample.labels.items() if k not in _WORKER_LABELS}
        key = tuple(sorted(own.items()))
        if key not in first or first[key].value < sample.value:
            first[key] = sample
    return list(first.values())


_WORKER_LABELS: Final = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})


def _stated(sample: Sample) -> int | None:
    return whole_number(sample.value, at_least=1, at_most=10**12)


def _tokens_of_pages(config: Sample) -> int | None:
    num_pages, size = (whole_label(config, name) for name in ("num_pages", "page_size"))
    return (num_pages or 0) * (size or 0) or None
