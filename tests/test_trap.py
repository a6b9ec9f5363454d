"""Syscalls that need no core: checked, served, answered once, taken back at any point."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from aios_core import (
    AccessDenied,
    Agent,
    ApprovalRefused,
    BackendError,
    DeadlineExceeded,
    EventKind,
    InvalidRequest,
    Journal,
    Kernel,
    KernelClosed,
    KernelConfig,
    SyscallCancelled,
    WouldBlock,
)
from aios_core.cores.scripted import ScriptedCore
from aios_core.manager import Labelled
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.syscalls import Request

PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Peek(Request[str]):
    """A request of a manager that exists only here."""

    kind: ClassVar[str] = "drawer.peek"
    name: str
    owner: str | None = None

    def access(self, identity: str) -> Access:
        return Access(self.kind, Right.READ, Resource("drawer", self.owner or identity, self.name))


@dataclass(frozen=True, slots=True)
class Unknown(Request[None]):
    kind: ClassVar[str] = "nobody.serves"

    def access(self, identity: str) -> Access:
        return Access(self.kind, Right.READ, Resource("drawer", identity))


@dataclass
class Drawer:
    """A manager whose requests end when the test says so."""

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
            return Labelled("news", frozenset({"web"}))
        return f"{process.name}: {request.name}"

    def forget(self, process: AgentProcess) -> None:
        self.forgotten.append(process.pid)

    async def close(self) -> None:
        self.is_closed = True

    def check(self) -> None:
        """Always sound."""


@dataclass
class Doorkeeper:
    """Owners may do everything; whoever asks for "asked" waits for `decision`."""

    decision: asyncio.Future[None] | None = None
    seen: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    is_asked: threading.Event = field(default_factory=threading.Event)

    def check(self, process: AgentProcess, access: Access) -> Awaitable[None] | None:
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


@pytest.fixture
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)


async def peeking(kernel: Kernel, name: str, event: threading.Event) -> asyncio.Task[str]:
    """A request of a new agent, once it is under way."""
    agent = await kernel.aspawn("alice")
    task = asyncio.ensure_future(agent.port.acall(Peek(name)))
    await until(event)
    return task


class TestServing:
    async def test_a_request_is_checked_served_and_recorded(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")

            assert await agent.port.acall(Peek("socks")) == "alice: socks"

            assert door.seen == ["drawer.peek drawer:default/alice:socks"]
            assert door.outcomes == ["alice socks done"]
            assert agent.accounting.num_requests == {"drawer.peek": 1}

    def test_it_is_reached_from_a_thread(self, drawer: Drawer, door: Doorkeeper) -> None:
        with DrawerKernel(drawer, door) as kernel:
            assert kernel.spawn("alice").port.call(Peek("socks")) == "alice: socks"

    async def test_a_blocking_call_on_the_kernels_own_loop_is_refused(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")

            with pytest.raises(WouldBlock):
                agent.port.call(Peek("socks"))

    async def test_its_story_can_be_told(self, drawer: Drawer, door: Doorkeeper) -> None:
        journal = Journal()
        async with DrawerKernel(drawer, door, observers=[journal]) as kernel:
            agent = await kernel.aspawn("alice")
            await agent.port.acall(Peek("socks"))

        kinds = [event.kind for event in journal.events(syscall_id=1)]
        assert kinds == [EventKind.SUBMITTED, EventKind.DISPATCHED, EventKind.DONE]

    async def test_labels_of_an_answer_become_the_agents(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")

            assert await agent.port.acall(Peek("from the web")) == "news"
            assert kernel.processes.get(agent.pid).labels == {"web"}

    async def test_a_request_that_nobody_serves_is_refused(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")

            with pytest.raises(InvalidRequest, match="no manager serves Unknown"):
                await agent.port.acall(Unknown())

    async def test_a_manager_that_breaks_harms_only_its_caller(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")

            with pytest.raises(BackendError, match=r"drawer\.peek failed") as caught:
                await agent.port.acall(Peek("broken"))

            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert await agent.port.acall(Peek("socks")) == "alice: socks"
            assert agent.accounting.num_failed == 1


class TestAccess:
    async def test_a_denied_request_never_reaches_its_manager(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("bob")

            with pytest.raises(AccessDenied, match=r"drawer\.peek 'drawer:default/alice:diary'"):
                await agent.port.acall(Peek("diary", owner="default/alice"))

            assert drawer.opened == []

    async def test_a_request_waits_for_its_approval(self, drawer: Drawer, door: Doorkeeper) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            task = await peeking(kernel, "asked", door.is_asked)
            assert drawer.opened == []

            assert door.decision is not None
            door.decision.set_result(None)

            assert await task == "alice: asked"

    async def test_a_refused_approval_is_the_callers_answer(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            task = await peeking(kernel, "asked", door.is_asked)
            assert door.decision is not None
            door.decision.set_exception(ApprovalRefused(1, "drawer.peek", "asked", "not today"))

            with pytest.raises(ApprovalRefused, match="not today"):
                await task
            assert drawer.opened == []

    async def test_a_call_of_a_model_waits_for_its_approval_without_a_slot(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")
            task = asyncio.ensure_future(agent.llm.agenerate("hello", model="asked-model"))
            await until(door.is_asked)
            assert not kernel._inside.parts.dispatcher._running

            assert door.decision is not None
            door.decision.set_result(None)

            assert (await task).text == "ok"

    async def test_a_refused_model_is_not_asked(self, drawer: Drawer, door: Doorkeeper) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")
            task = asyncio.ensure_future(agent.llm.agenerate("hello", model="asked-model"))
            await until(door.is_asked)
            assert door.decision is not None
            door.decision.set_exception(ApprovalRefused(1, "llm.generate", "asked-model", "no"))

            with pytest.raises(ApprovalRefused):
                await task
            kernel.check()


class TestTakingBack:
    async def test_cancelling_the_await_frees_what_the_request_held(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            task = await peeking(kernel, "stuck", drawer.has_begun)

            task.cancel()

            with pytest.raises(asyncio.CancelledError):
                await task
            assert drawer.freed == ["stuck"]
            assert door.outcomes == ["alice stuck CancelledError"]

    async def test_a_deadline_ends_it_wherever_it_is(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent = await kernel.aspawn("alice")

            for name, doing in (("stuck", "served by the drawer"), ("asked", "an approval")):
                with pytest.raises(DeadlineExceeded, match=doing):
                    await agent.port.acall(Peek(name), timeout_s=0.01)

            assert drawer.freed == ["stuck"]
            current = asyncio.current_task()
            assert current is not None
            assert not current.cancelling()

    async def test_it_ends_with_its_agent(self, drawer: Drawer, door: Doorkeeper) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            agent: Agent = await kernel.aspawn("alice")
            task = asyncio.ensure_future(agent.port.acall(Peek("stuck")))
            await until(drawer.has_begun)

            await kernel.aexit(agent.pid)

            with pytest.raises(SyscallCancelled, match="exited"):
                await task
            assert drawer.freed == ["stuck"]
            assert drawer.forgotten == [agent.pid]

    async def test_an_agent_that_has_exited_is_refused(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        async with DrawerKernel(drawer, door) as kernel:
            async with await kernel.aspawn("alice") as agent:
                pass

            with pytest.raises(SyscallCancelled, match="has exited"):
                await agent.port.acall(Peek("socks"))

    def test_closing_answers_what_is_under_way(self, drawer: Drawer, door: Doorkeeper) -> None:
        errors: list[BaseException] = []
        kernel = DrawerKernel(drawer, door).start()
        agent = kernel.spawn("alice")

        def caller() -> None:
            try:
                agent.port.call(Peek("stuck"))
            except KernelClosed as exc:
                errors.append(exc)

        thread = threading.Thread(target=caller)
        thread.start()
        assert drawer.has_begun.wait(PATIENCE)
        kernel.close()
        thread.join(PATIENCE)

        assert len(errors) == 1
        assert drawer.freed == ["stuck"]
        assert drawer.is_closed
