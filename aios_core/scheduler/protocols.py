"""What the dispatcher asks of the boxes beside it: the pool of cores and the context switcher.

The implementations are `cores.pool.CorePool` and `context.ContextSwitcher`;
`kernel/kernel.py` passes them in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from aios_core.core import Core
from aios_core.errors import CoreUnavailable, KernelError
from aios_core.scheduler.waiting_calls import Route
from aios_core.snapshot import Snapshot


class Outage(Protocol):
    """A core that is down."""

    probe_at: float


class Cores(Protocol):
    """The set of cores."""

    @property
    def outages(self) -> Mapping[str, Outage]:
        """Return the cores that are down, by name."""

    def __iter__(self) -> Iterator[Core]:
        """All of them."""

    def route(self, model: str | None) -> Route:
        """The cores that can serve a model. Raises `NoSuchObject`."""

    def pick(self, candidates: Route) -> Core | None:
        """The core with most room; None if none has a free slot."""

    def used(self, core: Core) -> None:
        """A core was given a call; among equals it is another's turn now."""

    def mark_down(self, name: str, error: KernelError, now: float) -> float:
        """A core died. Returns when it should be started again."""

    def mark_up(self, name: str) -> None:
        """A core serves again."""

    def is_up(self, name: str) -> bool:
        """Return whether a core serves at present."""

    def outage(self, name: str) -> Outage | None:
        """Why a core is down and when to try it again; None if it is up."""

    def unavailable(self, model: str | None, now: float) -> CoreUnavailable:
        """The error for a call whose cores are all down."""


class Pool(Protocol):
    """What the scheduler asks of the set of cores."""

    def pick(self, candidates: Route) -> Core | None:
        """The core with most room among the candidates; None if none has a free slot."""

    def used(self, core: Core) -> None:
        """The core was given a call; among equals it is another's turn now."""


class Contexts(Protocol):
    """The context switcher."""

    def save(self, call_id: int, core: Core, snapshot: Snapshot) -> None:
        """Keep the snapshot of a suspended call."""

    def restore(self, call_id: int) -> Snapshot | None:
        """Hand back the snapshot of a suspended call, which is then the caller's."""

    def discard(self, call_id: int) -> None:
        """Free the snapshot of a call that will not go on."""

    def keep_warm(self, pid: int, core: Core, context: Snapshot) -> None:
        """Keep the context of an agent between two calls."""

    def take_warm(self, pid: int, core: Core) -> Snapshot | None:
        """Hand back the context that the agent left on that core, if it is still there."""

    def make_room(self, core: Core, num_tokens: int = 0) -> None:
        """Move images away if the core's memory runs full, or would with `num_tokens` more."""

    def drop_core(self, core: Core) -> None:
        """A core died, and with it the KV images that it made."""
