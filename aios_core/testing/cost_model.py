"""The cost model of a simulated core, and its statistics.

The model is the usual one of serving engines: work goes in steps; a step reads the
weights once (`decode_step_s`), then pays for each sequence that decodes, for the KV
that it reads, and for each prompt token that it computes. A token late in a long
context costs more than an early one, since it attends to all tokens before it.
Defaults resemble an 8B model on one GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class CostModel:
    """Rates and sizes of a simulated device. All must be positive; rates may be infinite."""

    prefill_tokens_per_s: float = 12_000.0  # in addition to the step's base time
    attention_tokens: float = 40_000.0  # position in a context where a prompt token costs twice
    decode_step_s: float = 0.015  # base time of any step
    decode_per_sequence_s: float = 0.0001  # more, for each sequence that decodes in the step
    kv_read_tokens_per_s: float = 25e6  # tokens of context that decoding reads in each step
    kv_capacity_tokens: int = 60_000
    block_tokens: int = 16  # KV memory is given out and cached in blocks of so many tokens
    swap_tokens_per_s: float = 200_000.0  # KV between device and host; stalls the next step
    slots: int = 64
    prefill_chunk_tokens: int = 512  # tokens in one step, of all sequences together
    context_window: int = 32_768
    kv_bytes_per_token: int = 131_072

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ValueError(f"{each.name} must be positive, got {value!r}")

    @property
    def longest_sequence(self) -> int:
        """Tokens of prompt and answer that a sequence alone on the device may have."""
        return min(self.context_window, self.in_full_blocks(self.kv_capacity_tokens))

    def in_blocks(self, num_tokens: int) -> int:
        """The tokens that the blocks for so many tokens hold."""
        return -(-num_tokens // self.block_tokens) * self.block_tokens

    def in_full_blocks(self, num_tokens: int) -> int:
        """Those of so many tokens that fill whole blocks."""
        return num_tokens // self.block_tokens * self.block_tokens

    def decode_s(self, num_sequences: int, num_context_tokens: int) -> float:
        """The part of a step that some decoding sequences take, with their contexts together."""
        read_s = num_context_tokens / self.kv_read_tokens_per_s
        return num_sequences * self.decode_per_sequence_s + read_s

    def prefill_s(self, shares: Iterable[tuple[int, int]]) -> float:
        """The part of a step that prompt tokens take: (tokens before, tokens computed) of each."""
        return sum(
            num_tokens * (1 + (before + num_tokens / 2) / self.attention_tokens)
            for before, num_tokens in shares
        ) / (self.prefill_tokens_per_s)


@dataclass(slots=True)
class CoreStats:
    """The statistics of a simulated core since it was created."""

    busy_s: float = 0.0
    num_steps: int = 0
    decoded_tokens: int = 0
    prefilled_tokens: int = 0  # those that were computed again included
    recomputed_tokens: int = 0  # tokens prefilled again, of runs that lost their KV
    queried_tokens: int = 0  # of prompts when they were first admitted
    cached_tokens: int = 0  # those of them that did not have to be computed
    swapped_tokens: int = 0  # moved between device and host or disk
    num_thrashed: int = 0  # times that a running sequence lost its KV because memory was full
    evicted_tokens: int = 0  # of idle contexts, which made room
