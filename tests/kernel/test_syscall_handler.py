"""Syscalls that need no core: checked, served, answered once, taken back at any point."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aios_core import (
    AccessDenied,
    Agent,
    ApprovalRefused,
    BackendError,
    DeadlineExceeded,
    EventKind,
    EventLog,
    InvalidRequest,
    Kernel,
    KernelClosed,
    KernelConfig,
    SyscallCancelled,
    WouldBlock,
    tool,
)
from aios_core.access.audit.trail import AuditTrail
from aios_core.config import AccessConfig, StateConfig, ToolsConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.labels import Labeled
from aios_core.memory.requests import MemoryList
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.state import StateOpener
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


@dataclass(frozen=True, slots=True)
class Unknown(Request[None]):
    kind: ClassVar[str] = "nobody.serves"

    def access(self, identity: str) -> Access:
        return Access(self.kind, Right.READ, Resource("drawer", identity))


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


@pytest.fixture
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper()


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE)


async def peeking(kernel: Kernel, name: str, event: threading.Event) -> asyncio.Task[str]:
    """Make a request of a new agent, and return it once it is running."""
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
        journal = EventLog()
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


@dataclass
class Deaf(Drawer):
    """A manager that takes no notice of being cancelled: it answers, or fails, all the same."""

    waits: bool = True
    when_served: Any = None  # called while it serves

    async def perform(self, process: AgentProcess, request: Peek) -> Any:
        self.has_begun.set()
        if self.when_served is not None:
            self.when_served(process)
        if self.waits:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.freed.append(request.name)
        if request.name == "fails":
            raise BackendError("failed all the same")
        return "late"


class TestManagersThatSwallowCancellations:
    @pytest.mark.parametrize("name", ["answers", "fails"])
    async def test_a_deadline_leaves_no_callers_task_cancelling(
        self, door: Doorkeeper, name: str
    ) -> None:
        async with DrawerKernel(Deaf(), door) as kernel:
            agent = await kernel.aspawn("alice")
            task = asyncio.current_task()
            assert task is not None
            for _ in range(2):
                try:
                    answer = await agent.port.acall(Peek(name), timeout_s=0.01)
                except BackendError:
                    answer = "failed"

                assert answer == {"answers": "late", "fails": "failed"}[name]
                assert not task.cancelling()
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))

    async def test_a_cancellation_that_nothing_awaited_does_not_hit_the_caller_later(
        self, door: Doorkeeper
    ) -> None:
        deaf = Deaf(waits=False)
        async with DrawerKernel(deaf, door) as kernel:
            deaf.when_served = lambda process: kernel.exit(process.pid)
            agent = await kernel.aspawn("alice")

            assert await agent.port.acall(Peek("answers")) == "late"
            await asyncio.sleep(0)

            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()

    async def test_a_caller_who_withdraws_is_cancelled_all_the_same(self, door: Doorkeeper) -> None:
        deaf = Deaf()
        async with DrawerKernel(deaf, door) as kernel:
            task = await peeking(kernel, "answers", deaf.has_begun)
            task.cancel()

            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_one_that_cannot_forget_or_close_keeps_no_other_from_it(
        self, drawer: Drawer, door: Doorkeeper
    ) -> None:
        def fail(*_: Any) -> Any:
            raise ZeroDivisionError

        bad = Drawer(name="bad", requests=())
        bad.forget = bad.close = fail  # type: ignore[method-assign]
        kernel = DrawerKernel(drawer, door)
        kernel._given = replace(kernel._given, managers=(drawer, bad))
        await kernel.__aenter__()
        parent = await kernel.aspawn("alice")
        child = await kernel.aspawn("child", parent=parent.pid)
        await kernel.aexit(parent.pid)

        assert drawer.forgotten == [child.pid, parent.pid]
        assert len(kernel.processes) == 0
        with pytest.raises(ZeroDivisionError):
            await kernel.aclose()
        assert drawer.is_closed


async def test_a_deadline_says_that_a_tool_had_no_slot_or_ran(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()
    go_on.set()

    @tool(read_only=True, trusted=True, parallel=1)
    def slow() -> None:
        """Run until the test ends it."""
        started.set()
        go_on.wait(PATIENCE)

    config = KernelConfig(
        drain_s=0.0,
        state=StateConfig(directory=str(tmp_path / "state")),
        tools=ToolsConfig(plugins=()),
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")
        await kernel.aload_tools(slow)
        await agent.tools.arun("slow", {})  # all that is opened at the first call is open
        started.clear()
        go_on.clear()
        running = asyncio.ensure_future(agent.tools.arun("slow", {}, timeout_s=3.0))
        await until(started)

        with pytest.raises(DeadlineExceeded, match="waiting for a slot of tool 'slow'"):
            await agent.tools.arun("slow", {}, timeout_s=0.05)
        with pytest.raises(DeadlineExceeded, match="running tool 'slow'"):
            await running
        go_on.set()


async def test_a_deadline_says_that_the_state_directory_was_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, opens = threading.Event(), StateOpener._open

    def slowly(self: StateOpener) -> Any:
        gate.wait(PATIENCE)
        return opens(self)

    monkeypatch.setattr(StateOpener, "_open", slowly)
    config = KernelConfig(
        drain_s=0.0,
        state=StateConfig(directory=str(tmp_path / "state")),
        access=AccessConfig(audit="off"),
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")

        with pytest.raises(DeadlineExceeded, match="waiting for the state directory to be opened"):
            await agent.port.acall(MemoryList(), timeout_s=0.05)
        gate.set()


async def test_a_deadline_of_a_model_call_says_that_an_approval_was_waited_for(
    drawer: Drawer, door: Doorkeeper
) -> None:
    async with DrawerKernel(drawer, door) as kernel:
        agent = await kernel.aspawn("alice")

        with pytest.raises(DeadlineExceeded, match="the call was waiting for an approval"):
            await agent.llm.agenerate("hello", model="asked-model", timeout_s=0.01)


async def test_a_deadline_says_that_the_audit_trail_was_waited_for_and_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = asyncio.Event()

    async def slow(_: object) -> None:
        await opening.wait()

    monkeypatch.setattr(AuditTrail, "ready", slow)
    config = KernelConfig(drain_s=0.0, state=StateConfig(directory=str(tmp_path / "state")))
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        agent = await kernel.aspawn("alice")

        with pytest.raises(DeadlineExceeded, match="waiting for the audit trail to be opened"):
            await agent.port.acall(MemoryList(), timeout_s=0.01)
