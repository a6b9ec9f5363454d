"""Snapshots: everything needed to continue an interrupted generation later.

A snapshot always holds the *text* part: the token ids of the prompt and of what
was generated, and the state of the sampler. That is enough to continue exactly, at
the price of computing the prompt again. It may also hold an image of the KV
cache, which saves that price; images move between the tiers device, host and
disk (see `aios_core.context`).

A core that does not own its tokens (a remote endpoint) leaves the ids empty and
keeps the text that it has streamed so far.

Persisted form: one JSON object per snapshot (`encode`, `decode`), and
``safetensors`` for KV. Nothing is pickled.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

from aios_core.errors import SnapshotError

FORMAT = 1


class Tier(IntEnum):
    """Where a KV image lies, from fast and scarce to slow and plentiful."""

    DEVICE = 0
    HOST = 1
    DISK = 2


class KVImage(Protocol):
    """The KV cache of one sequence, wherever it lies.

    Owned by the core that made it. The methods block (they copy tensors and
    write files), are called off the kernel's loop, and by one thread at a time.
    """

    @property
    def tier(self) -> Tier:
        """Where the image lies now."""

    @property
    def num_tokens(self) -> int:
        """The number of tokens with keys and values in the image."""

    @property
    def num_bytes(self) -> int:
        """Size of the image, the same in every tier."""

    def to_host(self) -> None:
        """Move the image to host memory."""

    def to_disk(self, path: Path) -> None:
        """Write the image to `path` (safetensors) and free its memory."""

    def copy_to(self, path: Path) -> None:
        """Write a copy to `path` and sync it; the image stays where it is."""

    def release(self) -> None:
        """Free the image, its file included. Idempotent."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An interrupted generation."""

    model: str  # fingerprint of weights and number format; only an equal model resumes it
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()
    text: str = ""  # what was generated so far, for cores that do not own their tokens
    sampler: bytes | None = None  # state of the sequence's random generator; None if greedy
    kv: KVImage | None = None

    @property
    def num_tokens(self) -> int:
        """The tokens that must be computed again if there is no KV image."""
        return len(self.prompt_ids) + len(self.output_ids)

    def without_kv(self) -> Snapshot:
        """Return the snapshot without its KV image."""
        return replace(self, kv=None)

    def encode(self) -> dict[str, Any]:
        """Return the snapshot without its KV image as a JSON object."""
        return {
            "format": FORMAT,
            "model": self.model,
            "prompt_ids": list(self.prompt_ids),
            "output_ids": list(self.output_ids),
            "text": self.text,
            "sampler": None if self.sampler is None else base64.b64encode(self.sampler).decode(),
        }

    @classmethod
    def decode(cls, raw: Mapping[str, Any]) -> Snapshot:
        """Read what `encode` returned. Raises `SnapshotError` if it is damaged or too new."""
        if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
            raise SnapshotError(f"not a snapshot of format {FORMAT}: {raw!r:.100}")
        try:
            sampler = raw["sampler"]
            return cls(
                model=str(raw["model"]),
                prompt_ids=tuple(map(int, raw["prompt_ids"])),
                output_ids=tuple(map(int, raw["output_ids"])),
                text=str(raw["text"]),
                sampler=None if sampler is None else base64.b64decode(sampler, validate=True),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise SnapshotError(f"damaged snapshot: {exc!r}") from exc
