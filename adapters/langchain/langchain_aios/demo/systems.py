"""The systems that the demo compares: native, and the kernel under each policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Final

from aios_core import EventKind, Kernel, KernelConfig, KernelEvent
from langchain_aios import ChatAIOS
from langchain_aios.demo import kernel_agents, native_agents
from langchain_aios.demo.kernel_agents import MakeAsk
from langchain_aios.demo.kernel_tools import PLUGINS, open_office
from langchain_aios.demo.native import NativeChat
from langchain_aios.demo.records import CallRecord, Run, Stopwatch
from langchain_aios.demo.workload import AgentPlan, RunningAgent, run_members

NATIVE: Final = "native"
QUANTUM: Final = 16  # tokens; an answer of the tiny model has about twenty
_ENDS = (EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED)


async def run_native(members: Sequence[AgentPlan], chat: NativeChat, run: Run) -> None:
    """Run the agents on the plain chat model."""
    watch = Stopwatch()
    chat.watch(run, watch)
    await run_members(members, partial(native_agents.make_agent, llm=chat), run, watch)


async def run_on_kernel(
    members: Sequence[AgentPlan], policy: str, quantum: int | None, run: Run
) -> None:
    """Run the agents on a kernel of their own, on this loop."""
    async with _kernel(members, policy, quantum, run) as (kernel, watch):
        make_agent = partial(kernel_agents.make_agent, kernel=kernel)
        await run_members(members, make_agent, run, watch)


async def run_frameworks(
    members: Sequence[AgentPlan], frameworks: Mapping[str, MakeAsk], policy: str, run: Run
) -> None:
    """Run agents of several frameworks, each group of its own, on one kernel."""
    async with _kernel(members, policy, QUANTUM, run) as (kernel, watch):

        async def make_agent(member: AgentPlan) -> RunningAgent:
            return await kernel_agents.make_agent(member, kernel, frameworks[member.group])

        await run_members(members, make_agent, run, watch)


@asynccontextmanager
async def _kernel(
    members: Sequence[AgentPlan], policy: str, quantum: int | None, run: Run
) -> AsyncIterator[tuple[Kernel, Stopwatch]]:
    """A kernel with the office's files and tools, its state in a directory of its own."""
    watch = Stopwatch(asyncio.get_running_loop().time)  # the clock of a kernel on this loop
    groups = sorted({member.group for member in members})
    with TemporaryDirectory(prefix="aios-demo-") as state:
        config = KernelConfig(
            groups={group: {} for group in groups},
            cores=({"kind": "tiny", "options": {"slots": run.num_slots}},),
            scheduler={"policy": policy, "quantum": quantum},
            state={"directory": state},
            tools={"plugins": PLUGINS},
        )
        async with Kernel(config, observers=[Recorder(run, watch)]) as kernel:
            await open_office(kernel, groups)
            llm = ChatAIOS(kernel=kernel, max_tokens=kernel_agents.MAX_TOKENS)
            await llm.ainvoke("hi")  # the first call of a process is slow, here as there
            run.calls.clear()
            run.requests.clear()
            yield kernel, watch


class Recorder:
    """An observer that turns kernel events into call records, and counts the other syscalls."""

    def __init__(self, run: Run, watch: Stopwatch) -> None:
        self._run = run
        self._watch = watch
        self._agents: dict[int | None, tuple[str, str]] = {}
        self._calls: dict[int | None, CallRecord] = {}  # LLM calls in flight

    def __call__(self, event: KernelEvent) -> None:
        now = event.at - self._watch.started_at
        if event.kind is EventKind.AGENT_SPAWNED:
            self._agents[event.pid] = (event.facts["name"], event.facts["group"])
        elif event.kind is EventKind.SUBMITTED:
            agent, group = self._agents[event.pid]
            if request := event.facts.get("request"):
                self._run.requests[group, request] += 1
                return
            call = CallRecord(agent, group, now)
            self._calls[event.syscall_id] = call
            self._run.calls.append(call)
        elif event.syscall_id not in self._calls:
            return
        elif event.kind is EventKind.DISPATCHED:
            self._calls[event.syscall_id].run(now)
        elif event.kind in (EventKind.PREEMPTED, EventKind.RETRIED):
            self._calls[event.syscall_id].pause(now)
        elif event.kind in _ENDS:
            self._calls.pop(event.syscall_id).end(now)
