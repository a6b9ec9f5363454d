"""The systems that the demo compares: native, and the kernel under each policy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from aios_core import EventKind, Kernel, KernelConfig, KernelEvent
from langchain_aios import ChatAIOS
from langchain_aios.demo.native import NativeChat
from langchain_aios.demo.records import CallRecord, Run, Stopwatch
from langchain_aios.demo.workload import Member, run_members

NATIVE: Final = "native"
QUANTUM: Final = 16  # tokens; an answer of the tiny model has about twenty
_ENDS = (EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED)


async def run_native(members: Sequence[Member], chat: NativeChat, run: Run) -> None:
    """Run the agents on the plain chat model."""
    watch = Stopwatch()
    chat.watch(run, watch)
    await run_members(members, chat, run, watch)


async def run_on_kernel(
    members: Sequence[Member], policy: str, quantum: int | None, run: Run
) -> None:
    """Run the agents on a kernel of their own, on this loop."""
    config = KernelConfig(
        cores=({"kind": "tiny", "options": {"max_running": run.num_slots}},),  # type: ignore[arg-type]
        scheduler={"policy": policy, "quantum": quantum},  # type: ignore[arg-type]
    )
    watch = Stopwatch(asyncio.get_running_loop().time)  # the clock of a kernel on this loop
    async with Kernel(config, observers=[Recorder(run, watch)]) as kernel:
        llm = ChatAIOS(kernel=kernel, max_tokens=64)
        await llm.ainvoke("hi")  # the first call of a process is slow, here as there
        run.calls.clear()
        await run_members(members, llm, run, watch)


class Recorder:
    """An observer that turns kernel events into call records."""

    def __init__(self, run: Run, watch: Stopwatch) -> None:
        self._run = run
        self._watch = watch
        self._agents: dict[int | None, tuple[str, str]] = {}
        self._calls: dict[int | None, CallRecord] = {}

    def __call__(self, event: KernelEvent) -> None:
        now = event.at - self._watch.started_at
        if event.kind is EventKind.AGENT_SPAWNED:
            self._agents[event.pid] = (event.facts["name"], event.facts["group"])
        elif event.kind is EventKind.SUBMITTED:
            call = CallRecord(*self._agents[event.pid], now)
            self._calls[event.syscall_id] = call
            self._run.calls.append(call)
        elif event.kind is EventKind.DISPATCHED:
            self._calls[event.syscall_id].run(now)
        elif event.kind in (EventKind.PREEMPTED, EventKind.RETRIED):
            self._calls[event.syscall_id].pause(now)
        elif event.kind in _ENDS:
            self._calls.pop(event.syscall_id).end(now)
