"""Adapt the share of a core's KV memory that active agents may have. Pure.

On a core without KV images the share never exceeds the memory: contexts beyond it would evict one
another, and each call would compute its whole prompt again. The share falls if calls that should
find their contexts in the engine's cache do not, since then other programs use it too, or if the
engine takes running sequences out of its memory. It rises again, slowly, while nothing is missed.

On a core with KV images idle contexts are moved to the host, so more can be promised than the
memory holds. The share follows the memory in use: additive increase, multiplicative decrease.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aios_core.core import CoreLoad

START: Final = 0.90  # share of the KV memory for active agents
LEAST: Final = 0.3
MOST: Final = 0.95
MARGIN: Final = 0.10  # by which contexts that are active already may exceed the share
_STEP: Final = 0.01
_CUT: Final = 0.95
_MISSED: Final = 0.90  # share of cached tokens below which the share is cut
_FOUND: Final = 0.97  # ... above which it is raised
_WINDOW: Final = 0.1  # of the memory: expected tokens that one judgement needs
_BLOCK: Final = 64  # tokens; caches hold whole blocks, so the end of a context is not found
_PAUSE_S: Final = 1.0  # shortest time between two cuts for preemptions


@dataclass(slots=True)
class MemoryShare:
    """The share of a core without KV images."""

    share: float = START
    _num_expected: int = 0  # tokens that calls should have found in the cache
    _num_found: int = 0
    _num_preemptions: int | None = None  # of the engine, as of the last look
    _cut_at: float = float("-inf")

    def limit(self, capacity: int, *, is_active: bool) -> float:
        """Return the tokens that all active contexts may have, with one more call."""
        return capacity * (min(1.0, self.share + MARGIN) if is_active else self.share)

    def cached(self, num_expected: int, num_found: int, capacity: int, *, is_short: bool) -> None:
        """Record how much of a warm context was found in the engine's cache.

        Args:
            num_expected: tokens that the call has in common with its agent's last one.
            num_found: cached tokens of its prompt.
            capacity: of the core.
            is_short: whether calls wait for memory.
        """
        num_expected -= _BLOCK
        if num_expected <= 0:
            return
        self._num_expected += num_expected
        self._num_found += min(num_found, num_expected)
        if self._num_expected < _WINDOW * capacity:
            return
        found = self._num_found / self._num_expected
        self._num_expected = self._num_found = 0
        if found < _MISSED:
            self._cut()
        elif found > _FOUND and is_short:
            self.share = min(MOST, self.share + _STEP)

    def look(self, load: CoreLoad, now: float) -> None:
        """Cut the share if the engine has preempted sequences since the last look."""
        before, self._num_preemptions = self._num_preemptions, load.num_engine_preemptions
        is_more = before is not None and load.num_engine_preemptions > before
        if is_more and now - self._cut_at >= _PAUSE_S:
            self._cut_at = now
            self._cut()

    def _cut(self) -> None:
        self.share = max(LEAST, self.share * _CUT)


FULL: Final = 0.98  # share of KV memory in use above which less is promised
ROOMY: Final = 0.85  # ... below which more is promised
LOWEST: Final = 0.7
HIGHEST: Final = 1.5
_RISE: Final = 0.005


@dataclass(slots=True)
class SwappedShare(MemoryShare):
    """The share of a core that can move the contexts of idle agents to the host."""

    share: float = 1.0

    def limit(self, capacity: int, *, is_active: bool) -> float:  # noqa: ARG002
        """Return the tokens that all running contexts may have, with one more call."""
        return capacity * self.share

    def cached(self, num_expected: int, num_found: int, capacity: int, *, is_short: bool) -> None:
        """Ignore what was found: the kernel itself keeps the contexts of such a core."""

    def look(self, load: CoreLoad, now: float) -> None:  # noqa: ARG002
        """Adapt the share to the memory in use."""
        used = load.kv_tokens / load.kv_capacity if load.kv_capacity else 0.0
        if used > FULL:
            self.share = max(LOWEST, self.share * _CUT)
        elif used < ROOMY:
            self.share = min(HIGHEST, self.share + _RISE)
