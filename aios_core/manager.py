"""The contract between the kernel and the managers of memory, storage, tools and access.

An agent's request comes through its `Port`; the kernel checks it with the
`Gatekeeper`, hands it to the `Manager` that lists its type, and accounts for it.
A manager does not depend on scheduling, access or other managers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, TypeVar

from aios_core.permissions import Access, Resource
from aios_core.process import AgentProcess
from aios_core.syscalls import Request

T = TypeVar("T")


class Manager(Protocol):
    """Serves the requests of one kind. Its methods run on the kernel's loop and never block it."""

    @property
    def name(self) -> str:
        """The first part of its requests' kinds: "memory", "storage", "tool", "access"."""

    @property
    def requests(self) -> Sequence[type[Request[Any]]]:
        """The types of request that it serves."""

    async def start(self) -> None:
        """Start serving; called once, before the first request. Opens nothing before it is used."""

    async def perform(self, process: AgentProcess, request: Any) -> Any:
        """Serve an authorized request. Returns the result, or a `labels.Labeled` one.

        Raises `KernelError`s. Cancelling the await frees everything that the request holds.
        """

    def forget(self, process: AgentProcess) -> None:
        """Free what this process holds for an agent that exited."""

    async def close(self) -> None:
        """Stop and free everything; requests in flight were answered or cancelled before."""

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""


class Holder(Protocol):
    """A `Manager` of things that agents can share; it reports whether they exist."""

    async def holds(self, resource: Resource) -> bool | None:
        """Return whether a resource, or one below it, exists; None: not this manager's kind."""

    async def knows(self, identity: str) -> bool:
        """Return whether an agent of that identity keeps something here, or ever did."""


class Preparing(Protocol):
    """A `Manager` that has to resolve a request before its access is known."""

    async def prepare(self, process: AgentProcess, request: Any) -> Request[Any]:
        """Return the request to authorize and perform instead. Changes nothing.

        Raises `KernelError`s for a request that cannot be served for any agent.
        """


def waiting_for(awaitable: object) -> str:
    """Describe, for people, what a gatekeeper's awaitable waits for."""
    return str(getattr(awaitable, "doing", "waiting for an approval"))


class Gatekeeper(Protocol):
    """Authorizes requests. Called on the kernel's loop before every request."""

    def authorize(self, process: AgentProcess, access: Access) -> Awaitable[None] | None:
        """Authorize a request. Returns None, or what to await first, such as an approval.

        Raises `AccessDenied`.

        If the awaitable has an attribute `doing` ("waiting for ..."), it is shown to people.
        """

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        """Record the outcome of an authorized request: "done", or an error's name."""


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
        """Make a request and await its answer, on any loop; cancelling cancels the request."""
