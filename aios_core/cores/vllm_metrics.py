"""What a vLLM server's `/metrics` page says of its KV memory. Pure.

Source: vLLM's "Production Metrics"; Prometheus' text format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_USAGE = re.compile(r"^vllm:(?:gpu|kv)_cache_usage_perc(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(num_gpu_blocks|block_size)="(\d+)"')


@dataclass(frozen=True, slots=True)
class KVPressure:
    """Tokens in KV memory, and how many fit; None where the server does not say."""

    kv_tokens: int = 0
    kv_capacity: int | None = None


def read_pressure(page: str) -> KVPressure:
    """The pressure of a server; over all its engines, if it has several."""
    shares = [float(share) for share in _USAGE.findall(page)]
    capacities = [_capacity(labels) for labels in _CONFIG.findall(page)]
    if not capacities or not all(capacities) or not shares:
        return KVPressure()
    capacity = sum(capacities)
    return KVPressure(round(sum(shares) / len(shares) * capacity), capacity)


def _capacity(labels: str) -> int:
    """Tokens of one engine's KV memory; 0 if unknown."""
    found = {name: int(value) for name, value in _LABEL.findall(labels)}
    return found.get("num_gpu_blocks", 0) * found.get("block_size", 0)
