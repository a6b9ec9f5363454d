"""A dispatcher with everything that it needs, on the running loop, and callers that keep count."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from aios_core import (
    Budget,
    Completion,
    CoreError,
    Delta,
    EventKind,
    EventLog,
    FinishReason,
    Message,
    Price,
    Sampling,
)
from aios_core.clock import LoopClock
from aios_core.context import ContextSwitcher
from aios_core.core import Core, Finished, Prepared
from aios_core.cores import CorePool
from aios_core.events import EventStream
from aios_core.messages import Usage
from aios_core.process import AgentProcess, ProcessTable
from aios_core.scheduler import FIFO, Dispatcher, Policy, Scheduler
from aios_core.scheduler.overload import QueueLimits
from aios_core.snapshot import Tier
from aios_core.syscalls import LLMGenerate, Syscall
from tests.puppet import PuppetCore, settled


class Caller:
    """An `Answer` that fails at the second outcome."""

    wants_deltas = True

    def __init__(self) -> None:
        self.deltas: list[str] = []
        self.completion: Completion | None = None
        self.error: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Caller: {self.outcome!r}>"

    @property
    def outcome(self) -> Completion | BaseException | None:
        return self.completion or self.error

    @property
    def text(self) -> str | None:
        return self.completion.text if self.completion else None

    def delta(self, delta: Delta) -> None:
        assert self.outcome is None, "a delta after the outcome"
        self.deltas.append(delta.text)

    def resolve(self, completion: Completion) -> None:
        assert self.outcome is None, "answered twice"
        self.completion = completion

    def reject(self, error: BaseException) -> None:
        assert self.outcome is None, "answered twice"
        self.error = error


class Rig:
    """A dispatcher, its agents and its callers."""

    def __init__(
        self, *cores: Core, policy: Policy, limits: QueueLimits, price: Price, **pool: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.clock = LoopClock(loop)
        self.journal = EventLog()
        events = self.events = EventStream([self.journal])
        self.contexts = ContextSwitcher(
            host_bytes=1 << 20,
            disk_bytes=1 << 20,
            watermark=0.9,
            directory=None,
            events=events,
            now=self.clock.now,
        )
        self.pool = CorePool(cores, **pool)
        self.dispatcher = Dispatcher(
            Scheduler(policy),
            self.pool,
            self.contexts,
            loop=loop,
            clock=self.clock,
            events=events,
            limits=limits,
            prices=lambda _: price,
        )
        self.contexts.on_moving = self.dispatcher.set_moving
        self.table = ProcessTable()
        self.callers: list[Caller] = []

    def agent(self, name: str = "a", budget: Budget | None = None, **more: Any) -> AgentProcess:
        return self.table.spawn(name, now=self.clock.now(), budget=budget, **more)

    def submit(
        self,
        agent: AgentProcess,
        prompt: str = "hi",
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        **more: Any,
    ) -> tuple[Syscall, Caller]:
        caller = Caller()
        sampling = Sampling(max_tokens=max_tokens)
        request = LLMGenerate((Message("user", prompt),), model=model, sampling=sampling)
        self.callers.append(caller)
        try:
            return self.dispatcher.submit(agent, request, caller, **more), caller
        except BaseException:
            self.callers.remove(caller)
            raise

    def check(self) -> None:
        self.dispatcher.check()
        self.contexts.check()
        self.table.check()


@asynccontextmanager
async def rigged(
    *cores: Core,
    policy: Policy | None = None,
    limits: QueueLimits | None = None,
    price: Price | None = None,
    **pool: Any,
) -> AsyncIterator[Rig]:
    """A started rig. At the end: invariants hold, every caller was answered, nothing is held."""
    rig = Rig(
        *cores,
        policy=policy or FIFO(),
        limits=limits or QueueLimits(),
        price=price or Price(),
        **pool,
    )
    sinks = {core.name: rig.dispatcher.sink(core) for core in cores}
    await rig.pool.start_all(sinks, rig.clock.now())
    rig.dispatcher.on_cores_started()
    try:
        yield rig
        await settled()
        rig.check()
    finally:
        await rig.dispatcher.drain(0)
        await rig.pool.close_all()
        await rig.dispatcher.close()
        await rig.contexts.close()
    rig.check()
    assert all(caller.outcome is not None for caller in rig.callers), "unanswered"
    for process in rig.table:
        assert not process.live_calls
        assert process.budget.reserved.tokens == process.budget.reserved.calls == 0


LOST = CoreError("puppet", "lost the connection", is_retryable=True)
BROKEN = CoreError("puppet", "broke", is_retryable=False)


class Image:
    """A KV image that knows whether it was freed."""

    tier = Tier.HOST
    num_tokens = 1
    num_bytes = 1

    def __init__(self) -> None:
        self.num_releases = 0

    def to_host(self) -> None: ...
    def to_disk(self, path: object) -> None: ...
    def copy_to(self, path: object) -> None: ...

    def release(self) -> None:
        self.num_releases += 1


class BlurredCore(PuppetCore):
    """A core that does not count its tokens, as an endpoint is."""

    def prepare(self, request: LLMGenerate) -> Prepared:
        prepared = super().prepare(request)
        assert isinstance(prepared, Prepared)
        return replace(prepared, num_tokens=100 + 4 * prepared.num_tokens, is_exact=False)


def answer(core: PuppetCore, text: str, usage: Usage, run_id: int | None = None) -> None:
    """End a run with this answer and this claim."""
    run_id = next(iter(core.runs)) if run_id is None else run_id
    del core.runs[run_id]
    said = Completion(Message("assistant", text), FinishReason.STOP, usage, "puppet")
    core.tell(Finished(run_id, said))


def facts(rig: Rig, kind: EventKind) -> list[dict[str, Any]]:
    return [event.facts for event in rig.journal.events() if event.kind is kind]
