"""Decide where KV images are kept: pure functions for the context switcher.

An image without room in its tier can be moved one tier further out (swap), or dropped, so
that the prompt is computed again when the call continues. Measured rates decide which is
cheaper. Images of calls that would not resume exactly after recomputing are never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aios_core.snapshot import Tier

DROP = None  # as a target: free the image, keep the token ids


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured speeds. None: not known yet."""

    prefill_tokens_per_s: float | None = None
    host_bytes_per_s: float | None = None  # copying device -> host
    disk_bytes_per_s: float | None = None  # writing a file


@dataclass(frozen=True, slots=True)
class ImageView:
    """The facts about one KV image that decide where it is kept."""

    key: object
    tier: Tier
    num_tokens: int
    num_bytes: int
    last_used: int  # order of use, larger is more recent
    is_suspended: bool  # belongs to a suspended call, not to an idle agent
    may_drop: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A decision to move the image of `key` to the tier `target`; None drops it."""

    key: object
    target: Tier | None


def plan_moves(images: Sequence[ImageView], tier: Tier, excess: int, rates: Rates) -> list[Move]:
    """Free `excess` bytes of a tier by moving its coldest images further out.

    Contexts of idle agents go before suspended calls, the longest unused first; among
    suspended calls the one suspended last goes first, since it will run last.
    """
    moves = []
    for image in _coldest_first(image for image in images if image.tier is tier):
        if excess <= 0:
            break
        target = cheapest_target(image, rates)
        if target is not tier:
            moves.append(Move(image.key, target))
            excess -= image.num_bytes
    return moves


def cheapest_target(image: ImageView, rates: Rates) -> Tier | None:
    """The next tier out, or `DROP` if computing the tokens again costs less than moving twice.

    A swap with an unknown speed is tried, so that it becomes measured.
    """
    target = Tier.HOST if image.tier is Tier.DEVICE else Tier.DISK
    if image.tier is Tier.DISK:
        return DROP if image.may_drop else Tier.DISK
    speed = rates.host_bytes_per_s if target is Tier.HOST else rates.disk_bytes_per_s
    if not image.may_drop or speed is None or rates.prefill_tokens_per_s is None:
        return target
    swap_s = 2 * image.num_bytes / speed  # out now, and in again when the call resumes
    recompute_s = image.num_tokens / rates.prefill_tokens_per_s
    return DROP if recompute_s < swap_s else target


def _coldest_first(images: Iterable[ImageView]) -> list[ImageView]:
    return sorted(
        images, key=lambda i: (i.is_suspended, -i.last_used if i.is_suspended else i.last_used)
    )
