"""The contract between the kernel and the managers of memory, storage, tools and access.

An agent's request comes through its `Port`; the kernel checks it with the
`Gatekeeper`, hands it to the `Manager` that lists its type, and accounts for it.
A manager knows nothing of scheduling, access or other managers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aios_core.permissions import Access, Resource
from aios_core.process import AgentProcess
from aios_core.syscalls import Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labelled:
    """An answer whose content comes from somewhere that matters.

    The kernel unwraps it for the caller and adds the labels to those of the agent;
    what an agent writes from then on is stored with them (promise: a label is never lost by
    writing and reading back).
    """

    value: Any
    labels: frozenset[str]


def labelled(value: Any, labels: frozenset[str]) -> Any:
    """The value, with the labels if there are any."""
    return Labelled(value, labels) if labels else value


def all_labelled(values: Sequence[HasLabels]) -> Any:
    """A tuple of them, with the labels of all, and of their names."""
    return labelled(tuple(values), labels_of_all(values))


def labels_of_all(values: Iterable[HasLabels]) -> frozenset[str]:
    """The labels of several things together, those of their names included."""
    return frozenset[str]().union(*(_all_labels(value) for value in values))


def _all_labels(value: HasLabels) -> frozenset[str]:
    names: frozenset[str] = getattr(value, "name_labels", frozenset())
    return value.labels | names


class HasLabels(Protocol):
    """Something that is given back to agents, and knows where it comes from.

    If its name may come from elsewhere than its content, `name_labels` says from where.
    """

    @property
    def labels(self) -> frozenset[str]:
        """The labels of the agents that wrote it."""


class Manager(Protocol):
    """Serves the requests of one kind. Its methods run on the kernel's loop and never block it."""

    @property
    def name(self) -> str:
        """The first part of its requests' kinds: "memory", "storage", "tool", "access"."""

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        """The types of request that it serves."""

    async def start(self) -> None:
        """Called once, before the first request. Opens nothing that nobody asked for."""

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        """Serve a request whose access was granted; the result, or a `Labelled` one.

        Raises `KernelError`s. A cancelled await frees all that the request holds.
        """

    def forget(self, process: AgentProcess) -> None:
        """An agent exited; what lives in this process for it can go."""

    async def close(self) -> None:
        """Stop and free everything; requests under way were answered or cancelled before."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""


class Holder(Protocol):
    """A `Manager` of things that agents can share; a slip in a grant is found by asking it."""

    async def holds(self, resource: Resource) -> bool | None:
        """Whether there is such a thing, or something below it; None: not of this manager's."""

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity keeps something here, or ever did."""


class Preparing(Protocol):
    """A `Manager` that has to look at a request before it can say what the request accesses."""

    async def prepare(self, process: AgentProcess, request: Any) -> Request[Any]:
        """The request that is checked, and performed, in its place. Changes nothing.

        Raises `KernelError`s for a request that cannot be served, whoever makes it.
        """


def waiting_for(awaitable: object) -> str:
    """For people: what a gatekeeper's awaitable waits for."""
    return str(getattr(awaitable, "doing", "waiting for an approval"))


class Gatekeeper(Protocol):
    """Decides who may do what. Called on the kernel's loop before every request."""

    def check(self, process: AgentProcess, access: Access) -> Awaitable[None] | None:
        """None: go on. An awaitable: wait for it, as for an approval. Raises `AccessDenied`.

        If the awaitable has an attribute `doing` ("waiting for ..."), it is shown to people.
        """

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        """Write down what became of a request that was let through: "done", or an error's name."""


class Port(Protocol):
    """One agent's way into the kernel; what the handles of the managers are made with.

    Both forms raise what the manager raises, `AccessDenied`, `DeadlineExceeded`,
    `SyscallCancelled` and `KernelClosed`; the blocking one `WouldBlock` on the kernel's own loop.
    """

    @property
    def identity(self) -> str:
        """The agent's identity."""

    def call(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make a request and wait for its answer."""

    async def acall(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """The same on any event loop. Cancelling the await cancels the request."""
