"""Syscalls that need no core: checked, served, answered once, taken back at any point."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
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
    SyscallCancelled,
    WouldBlock,
)
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess
from aios_core.syscalls import Request

from .drawer import PATIENCE, Doorkeeper, Drawer, DrawerKernel, Peek, until


@dataclass(frozen=True, slots=True)
class Unknown(Request[None]):
    kind: ClassVar[str] = "nobody.serves"

    def access(self, identity: str) -> Access:
        return Access(self.kind, Right.READ, Resource("drawer", identity))


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
