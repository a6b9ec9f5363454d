"""Read what an engine reports of itself on its page of metrics (Prometheus' text format). Pure.

Engines differ in the names of their metrics (`vllm_metrics`, `sglang_metrics`); what the kernel
learns from them is one `EngineSignals`. All values are claims of a server: a value that cannot
be right counts as not reported.

Source: Prometheus, "Exposition formats".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from aios_core.core import CoreLoad
from aios_core.untrusted.reported_numbers import whole_number

_MOST_TOKENS: Final = 10**12  # of one server's KV memory
_MOST_EVENTS: Final = 10**15  # of a counter since the server started

_LABELS: Final = r'(?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*'  # a quoted value may contain braces
_LABEL: Final = re.compile(r'([A-Za-z_]\w*)="((?:[^"\\\n]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class EngineSignals:
    """The state of an engine's KV memory and prefix cache at one moment, over all its replicas."""

    kv_tokens: int = 0  # held by running requests; cached contexts of idle agents do not count
    kv_capacity: int | None = None  # tokens of the whole KV memory; None if not reported
    num_running: int = 0  # requests of all clients
    num_waiting: int = 0
    # Counters since the engine started.
    num_preemptions: int = 0  # running requests that lost their KV memory to others
    prefix_queried_tokens: int = 0  # prompt tokens that were looked up in the prefix cache
    prefix_hit_tokens: int = 0  # those of them that were found there
    # How long a cached block was idle before it was evicted, on average; None if not measured.
    idle_before_evict_s: float | None = None


def add_signals(load: CoreLoad, signals: EngineSignals, kv_tokens: int | None) -> CoreLoad:
    """Return the load of a core with its engine's signals.

    `kv_tokens` is the KV memory that the configuration states, or None. Of this and the server's
    report the smaller counts.
    """
    stated = (kv_tokens, signals.kv_capacity)
    return replace(
        load,
        kv_tokens=signals.kv_tokens,
        kv_capacity=min((number for number in stated if number), default=None),
        num_engine_preemptions=signals.num_preemptions,
        prefix_queried_tokens=signals.prefix_queried_tokens,
        prefix_hit_tokens=signals.prefix_hit_tokens,
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a page of metrics."""

    name: str  # without the prefix of its engine
    labels: Mapping[str, str]
    value: float


class MetricsReader:
    """Finds the samples of chosen metrics in the pages of one kind of engine.

    Args:
        prefix: the start of the engine's metric names, as ``vllm:``.
        names: the metrics to find, without the prefix; all others are skipped.
    """

    def __init__(self, prefix: str, names: Iterable[str]) -> None:
        known = "|".join(sorted(map(re.escape, names)))
        self._line = re.compile(
            rf"^{re.escape(prefix)}({known})(?:\{{({_LABELS})\}})?[ \t]+(\S+)", re.MULTILINE
        )

    def samples(self, page: str) -> dict[str, list[Sample]]:
        """Return the samples by metric; a metric that the page does not have is not a key."""
        found: dict[str, list[Sample]] = {}
        for sample in self._read(page):
            found.setdefault(sample.name, []).append(sample)
        return found

    def _read(self, page: str) -> Iterator[Sample]:
        for name, labels, text in self._line.findall(page):
            try:
                value = float(text)
            except ValueError:
                value = float("nan")
            yield Sample(name, dict(_LABEL.findall(labels)), value)


def count(samples: Iterable[Sample]) -> int:
    """Return the sum of a counter over its labels; 0 if a part of it is not a count."""
    counts = [whole_number(sample.value, at_most=_MOST_EVENTS) for sample in samples]
    return 0 if None in counts else sum(number for number in counts if number is not None)


def share(samples: Iterable[Sample]) -> float | None:
    """Return the mean of shares from 0 to 1; None if there are none, or one is out of range."""
    values = [sample.value for sample in samples]
    if not values or not all(0.0 <= value <= 1.0 for value in values):  # False for nan, too
        return None
    return sum(values) / len(values)


def tokens(numbers: Iterable[int | None]) -> int | None:
    """Return the sum of the KV memory of replicas; None if one of them is unknown or absurd."""
    known = list(numbers)
    if not known or None in known:
        return None
    total = sum(number for number in known if number is not None)
    return whole_number(total, at_least=1, at_most=_MOST_TOKENS)


def whole_label(sample: Sample, label: str) -> int | None:
    """Return a label that is a whole number; None if it is absent or anything else."""
    text = sample.labels.get(label, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def mean_of_histogram(
    sums: Iterable[Sample], counts: Iterable[Sample], is_valid: Callable[[float], bool]
) -> float | None:
    """Return the mean of a histogram over its labels; None if it is empty or not valid."""
    number = count(counts)
    mean = sum(sample.value for sample in sums) / number if number else float("nan")
    return mean if is_valid(mean) else None
