"""The cost model of a simulated core, and its statistics.

The model is the usual one of serving engines: work goes in steps; a step reads the
weights once (`decode_step_s`), then pays for each sequence that decodes and for
each prompt token that it computes. Defaults resemble an 8B model on one GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class CostModel:
    """Rates and sizes of a simulated device. All must be positive."""

    prefill_tokens_per_s: float = 12_000.0  # in addition to the step's base time
    decode_step_s: float = 0.015  # base time of any step
    decode_per_sequence_s: float = 0.0001  # more, for each sequence that decodes in the step
    kv_capacity_tokens: int = 60_000
    swap_tokens_per_s: float = 200_000.0  # KV between device and host; stalls the next step
    slots: int = 64
    prefill_chunk_tokens: int = 512  # prompt tokens in one step, of all sequences together
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
        return min(self.context_window, self.kv_capacity_tokens)

    def step_s(self, num_decoding: int, num_prefill_tokens: int) -> float:
        """Duration of one step."""
        return (
            self.decode_step_s
            + num_decoding * self.decode_per_sequence_s
            + num_prefill_tokens / self.prefill_tokens_per_s
        )


@dataclass(slots=True)
class CoreStats:
    """The statistics of a simulated core since it was created."""

    busy_s: float = 0.0
    num_steps: int = 0
    decoded_tokens: int = 0
    prefilled_tokens: int = 0  # those that were computed again included
    recomputed_tokens: int = 0  # tokens prefilled again, since the core itself had dropped their KV
    cached_tokens: int = 0  # prompt tokens that warm contexts saved
    swapped_tokens: int = 0  # moved between device and host or disk
    num_thrashed: int = 0  # times that a running sequence lost its KV because memory was full
    num_images_dropped: int = 0  # idle KV images that made room
