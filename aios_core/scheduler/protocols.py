"""Contracts of the components that the dispatcher uses: the core pool and the context switcher.

`cores.pool.CorePool` and `context.ContextSwitcher` implement them; `kernel.wiring` passes
them in, so that the scheduler imports neither package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

from aios_core.core import Core
from aios_core.errors import CoreUnavailable, KernelError
from aios_core.scheduler.waiting_calls import Route
from aios_core.snapshot import Snapshot


class Outage(Protocol):
    """The state of a core that is down."""

    probe_at: float  # when to start the core again


class Cores(Protocol):
    """The contract of a core pool, for the dispatcher."""

    @property
    def outages(self) -> Mapping[str, Outage]:
        """Return the cores that are down, by name."""

    @property
    def all_up(self) -> bool:
        """Return whether no core is down and every model has one."""

    @property
    def draining(self) -> AbstractSet[str]:
        """Return the names of the cores that take no further calls."""

    def __iter__(self) -> Iterator[Core]:
        """Iterate over all cores."""

    def __contains__(self, core: object) -> bool:
        """Return whether a core is in the pool."""

    def serving(self, model: str) -> Route:
        """Return the cores that take calls of a model, its absent one if there are none."""

    def route(self, model: str | None) -> Route:
        """Return the cores that can serve a model. Raises `NoSuchObject`."""

    def pick(self, candidates: Route) -> Core | None:
        """Return the least loaded core; None if none has a free slot."""

    def used(self, core: Core) -> None:
        """Count a call given to a core, so that the next one goes to another of equal load."""

    def mark_down(self, name: str, error: KernelError, now: float) -> float:
        """Record that a core is down. Returns when it should be started again."""

    def mark_up(self, name: str) -> None:
        """Record that a core serves again."""

    def is_up(self, name: str) -> bool:
        """Return whether a core serves at present."""

    def outage(self, name: str) -> Outage | None:
        """Return why a core is down and when to start it again; None if it is up."""

    def unavailable(self, model: str | None, now: float) -> CoreUnavailable:
        """Build the error of a call with no core that is up."""


class Pool(Protocol):
    """The contract of a core pool, for the scheduler."""

    def pick(self, candidates: Route) -> Core | None:
        """Return the least loaded of the candidates; None if none has a free slot."""

    def used(self, core: Core) -> None:
        """Count a call given to a core, so that the next one goes to another of equal load."""


class Contexts(Protocol):
    """The contract of the context switcher."""

    def save(self, call_id: int, core: Core, snapshot: Snapshot) -> None:
        """Keep the snapshot of a suspended call."""

    def restore(self, call_id: int) -> Snapshot | None:
        """Remove and return the snapshot of a suspended call; the caller then owns it."""

    def peek(self, call_id: int) -> Snapshot | None:
        """Return the snapshot of a suspended call without removing it."""

    def discard(self, call_id: int) -> None:
        """Free the snapshot of a call that will not continue."""

    def keep_warm(self, pid: int, core: Core, context: Snapshot) -> None:
        """Keep the context of an agent between two calls."""

    def take_warm(self, pid: int, core: Core) -> Snapshot | None:
        """Remove and return the context that the agent left on that core, if there is one."""

    def make_room(self, core: Core, num_tokens: int = 0) -> None:
        """Move images off the core if its memory is full, or would be with `num_tokens` more."""

    def drop_core(self, core: Core) -> None:
        """Drop the KV images of a core that went down."""
