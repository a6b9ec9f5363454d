"""Parse the KV memory of a vLLM server from its `/metrics` page. Pure.

Source: vLLM's "Production Metrics"; Prometheus' text format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aios_core.untrusted.reported_numbers import whole_number

_MOST_TOKENS: Final = 10**12  # of one server's KV memory

_USAGE = re.compile(r"^vllm:(?:gpu|kv)_cache_usage_perc(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(num_gpu_blocks|block_size)="(\d+)"')


@dataclass(frozen=True, slots=True)
class KVPressure:
    """The tokens in KV memory and its capacity; None if the server does not report them."""

    kv_tokens: int = 0
    kv_capacity: int | None = None


def read_pressure(page: str) -> KVPressure:
    """Return the pressure of a server, over all of its engines."""
    shares = [_share(share) for share in _USAGE.findall(page)]
    capacities = [_capacity(labels) for labels in _CONFIG.findall(page)]
    known = [share for share in shares if share is not None]
    capacity = whole_number(sum(capacities), at_least=1, at_most=_MOST_TOKENS)
    if capacity is None or not all(capacities) or not known or len(known) < len(shares):
        return KVPressure()
    return KVPressure(round(sum(known) / len(known) * capacity), capacity)


def _share(text: str) -> float | None:
    """Parse a share of the memory; None if it is not a number from 0 to 1."""
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0.0 <= share <= 1.0 else None  # also False for nan


def _capacity(labels: str) -> int:
    """Return the tokens of one engine's KV memory; 0 if unknown."""
    found = {name: int(value) for name, value in _LABEL.findall(labels)}
    return found.get("num_gpu_blocks", 0) * found.get("block_size", 0)
