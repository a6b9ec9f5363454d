"""A manager and a gatekeeper that exist only in tests, and a kernel with both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from aios_core import (
    AccessDenied,
    Kernel,
    KernelConfig,
)
from aios_core.cores.scripted import ScriptedCore
from aios_core.labels import Labeled
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.syscalls import Request

PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Peek(Request[str]):
    """A request of a manager that exists only here."""

    kind: ClassVar[str] = "drawer.peek"
    name: str
    owner: str | None = None

    def access(self, identity: str) -> Access:
        return Access(self.kind, Right.READ, Resource("drawer", self.owner or identity, self.name))


@dataclass
class Drawer:
    """A manager with requests that a test ends."""

    name: str = "drawer"
    requests: tuple[type[Request[Any]], ...] = (Peek,)
    opened: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    is_started: bool = False
    is_closed: bool = False
    has_begun: threading.Event = field(default_factory=threading.Event)

    async def start(self) -> None:
        self.is_started = True

    async def perform(self, process: AgentProcess, request: Peek) -> Any:
        self.opened.append(request.name)
        self.has_begun.set()
        if request.name == "stuck":
            try:
                await asyncio.Event().wait()
            finally:
                self.freed.append(request.name)
        if request.name == "broken":
            raise ZeroDivisionError("oops")
        if request.name == "from the web":
            return Labeled("news", frozenset({"web"}))
        return f"{process.name}: {request.name}"

    def forget(self, process: AgentProcess) -> None:
        self.forgotten.append(process.pid)

    async def close(self) -> None:
        self.is_closed = True

    def check(self) -> None:
        """Always sound."""


@dataclass
class Doorkeeper:
    """Owners may do everything; a request about "asked" waits for `decision`."""

    decision: asyncio.Future[None] | None = None
    seen: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    is_asked: threading.Event = field(default_factory=threading.Event)

    def authorize(self, process: AgentProcess, access: Access) -> Awaitable[None] | None:
        self.seen.append(f"{access.action} {access.resource}")
        if access.resource.owner not in (None, process.identity):
            raise AccessDenied(process.pid, access.action, str(access.resource))
        if access.resource.name in ("asked", "asked-model"):
            self.decision = asyncio.get_running_loop().create_future()
            self.is_asked.set()
            return self.decision
        return None

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        self.outcomes.append(f"{process.name} {access.resource.name} {outcome}")


class DrawerKernel(Kernel):
    def __init__(self, drawer: Drawer, door: Doorkeeper, **options: Any) -> None:
        core = ScriptedCore(lambda _request: "ok", models=("scripted", "asked-model"))
        super().__init__(KernelConfig(drain_s=0.0), cores=[core], gatekeeper=door, **options)
        self._given = replace(self._given, managers=(drawer,))


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)
