"""The agent handle: what a developer writes code against."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, Unpack

from aios_core.access import AccessHandle
from aios_core.accounting import Accounting, BudgetStatus
from aios_core.errors import InvalidRequest
from aios_core.kernel.llm import LLM
from aios_core.kernel.port import AgentPort
from aios_core.memory import Memory
from aios_core.messages import (
    Completion,
)
from aios_core.options import (
    ChildOptions,
    SpawnOptions,
)
from aios_core.process import ProcessState
from aios_core.redaction import shown_repr
from aios_core.storage import Storage
from aios_core.storage.collections import Collections
from aios_core.tools import Tools as AgentTools
from aios_core.untrusted.arguments import is_a


class AgentControl(Protocol):
    """The part of a kernel that an agent's handle uses to control its process."""

    def time(self) -> float:
        """Return the time of the kernel's clock in seconds."""

    def spawn(self, name: str, **settings: Unpack[SpawnOptions]) -> Agent:
        """Start an agent."""

    async def aspawn(self, name: str, **settings: Unpack[SpawnOptions]) -> Agent:
        """Start an agent without blocking the event loop."""

    def exit(self, pid: int) -> None:
        """End an agent and its children."""

    async def aexit(self, pid: int) -> None:
        """End an agent and its children without blocking the event loop."""

    def request_exit(self, pid: int) -> None:
        """Request the end of an agent without waiting for it."""

    def freeze(self, pid: int) -> None:
        """Hold the calls of an agent."""

    def thaw(self, pid: int) -> None:
        """Let a frozen agent continue."""

    def save_agent(self, pid: int, directory: str | Path) -> None:
        """Write an agent to a directory."""


class Agent:
    """A handle to one process of the kernel: its LLM calls, memory, files and tools.

    Leave it with `exit` (or use it as a context manager): its calls are
    cancelled, its children exit, and what it held is freed.
    """

    def __init__(self, kernel: AgentControl, port: AgentPort) -> None:
        self._kernel = kernel
        self._process = port.process
        self.llm = LLM(port)
        self.port = port
        self.access = AccessHandle(self.port)
        self.memory = Memory(self.port)
        self.tools = AgentTools(self.port)
        self.storage = Storage(self.port)
        self.collections = Collections(self.port)
        self.resumed_calls: tuple[Future[Completion], ...] = ()  # calls that it was loaded with

    def __repr__(self) -> str:
        return f"<Agent {self.pid} {shown_repr(self.name)}: {self.state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def name(self) -> str:
        return self._process.name

    @property
    def identity(self) -> str:
        """The durable name that owns its memory and files, also after its exit: "group/name"."""
        return self._process.identity

    @property
    def group(self) -> str:
        return self._process.group.name

    @property
    def state(self) -> ProcessState:
        return self._process.state

    @property
    def accounting(self) -> Accounting:
        """The usage of the agent so far; updated live, read-only."""
        return self._process.accounting

    @property
    def accounting_with_descendants(self) -> Accounting:
        """The usage so far of the agent and all its descendants, including exited ones."""
        return self._process.accounting_with_descendants()

    @property
    def budget(self) -> BudgetStatus:
        """The budget of the agent and its descendants: limits, spent, reserved and left."""
        ends_at = self._process.ends_at
        left_s = None if ends_at is None else ends_at - self._kernel.time()
        return BudgetStatus.of(self._process.budget, wall_left_s=left_s)

    def spawn(self, name: str, **settings: Unpack[ChildOptions]) -> Agent:
        """Start a child of this agent; `Kernel.spawn` documents the arguments."""
        return self._kernel.spawn(name, parent=self.pid, **settings)

    async def aspawn(self, name: str, **settings: Unpack[ChildOptions]) -> Agent:
        """Start a child of this agent without blocking the event loop."""
        return await self._kernel.aspawn(name, parent=self.pid, **settings)

    def acting_for(self, other: Agent) -> Agent:
        """Return this agent as another uses it, for a store that serves several.

        Memory and files are this agent's. What is written carries the labels of both, and what is
        read adds its labels to the other. Make a new one for each piece of work.
        """
        if not is_a(other, Agent):
            raise InvalidRequest(f"other: got {shown_repr(other)}; allowed: an Agent")
        if other._kernel is not self._kernel or other.pid == self.pid:
            return self
        stand_in = Agent(self._kernel, self.port.acting_for(other._process))
        stand_in.llm = self.llm
        return stand_in

    def exit(self) -> None:
        """End the agent and its children; their calls are cancelled. Idempotent."""
        self._kernel.exit(self.pid)

    def request_exit(self) -> None:
        """Request the end of the agent without waiting. Safe in finalizers, on any thread."""
        self._kernel.request_exit(self.pid)

    def freeze(self) -> None:
        """Take the agent off the cores until `thaw`; returns once it holds no slot.

        Its callers keep waiting. A call on a core that cannot be preempted runs to its end.
        """
        self._kernel.freeze(self.pid)

    def thaw(self) -> None:
        """Let a frozen agent continue."""
        self._kernel.thaw(self.pid)

    def save(self, directory: str | Path) -> None:
        """Freeze the agent and write it to a directory, with its generations in flight.

        `Kernel.load_agent` restores it, also in another process. `Kernel.save_agent` documents
        what cannot be saved.
        """
        self._kernel.save_agent(self.pid, directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.exit()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._kernel.aexit(self.pid)
