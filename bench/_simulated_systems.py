"""The systems that agents of a simulated load call: the engine alone, or a kernel before it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol

from _simulated_loads import Plan

from aios_core import Kernel, KernelConfig
from aios_core.config import GroupConfig, SchedulerConfig
from aios_core.core import Failed, Finished, Progress, Report, ReportSink, Run
from aios_core.process import RunawayGuard
from aios_core.syscalls import LLMGenerate
from aios_core.testing import CostModel, SimulatedCore

DIRECT: Final = "direct"


@dataclass(frozen=True)
class Wait:
    """The time from an agent's call to its first token."""

    prompt_tokens: int
    wait_s: float


class MeteredCore(SimulatedCore):
    """A simulated core that counts what each agent was served, and how long it waited for it.

    Service is the usual weighted one: prompt + 2 x generated tokens.
    """

    def __init__(self, costs: CostModel) -> None:
        super().__init__(costs=costs, report_every=8)
        self.service: dict[int, float] = defaultdict(float)
        self.waits: list[Wait] = []
        self._called_at: dict[int, tuple[float, int]] = {}  # until the first token
        self._pids: dict[int, int] = {}

    async def start(self, sink: ReportSink) -> None:
        """Start the device, and read what it reports before the receiver does."""

        def metered(reports: Sequence[Report]) -> None:
            for report in reports:
                if isinstance(report, Progress):
                    self._count(self._pids[report.run_id], report.num_tokens)
            sink(reports)

        await super().start(metered)

    def run(self, run: Run) -> None:
        """Start a run, and count its prompt."""
        self._pids[run.id] = run.pid
        if run.snapshot is None:
            self.service[run.pid] += run.prepared.num_tokens
        super().run(run)

    def note_call(self, pid: int, prompt_tokens: int) -> None:
        """Note that an agent calls now."""
        self._called_at[pid] = asyncio.get_running_loop().time(), prompt_tokens

    def _count(self, pid: int, num_tokens: int) -> None:
        self.service[pid] += 2 * num_tokens
        if (called := self._called_at.pop(pid, None)) is not None:
            at, prompt_tokens = called
            self.waits.append(Wait(prompt_tokens, asyncio.get_running_loop().time() - at))


class System(Protocol):
    """Something that agents send their calls to."""

    async def start(self) -> None: ...

    async def join(self, plan: Plan, /) -> int: ...

    async def generate(self, pid: int, request: LLMGenerate, /) -> None: ...

    def exit(self, pid: int, /) -> None: ...

    async def close(self) -> None: ...


class Direct:
    """The engine alone: every call goes to it at once; its prefix cache keeps what it can."""

    def __init__(self, core: SimulatedCore) -> None:
        self._core = core
        self._pids, self._ids = count(1), count(1)
        self._pending: dict[int, asyncio.Future[None]] = {}

    async def start(self) -> None:
        await self._core.start(self._sink)

    async def join(self, _plan: Plan, /) -> int:
        return next(self._pids)

    async def generate(self, pid: int, request: LLMGenerate, /) -> None:
        run_id, future = next(self._ids), asyncio.get_running_loop().create_future()
        self._pending[run_id] = future
        prepared = self._core.prepare(request)
        self._core.run(Run(run_id, pid, request, prepared, wants_deltas=False))
        await future

    def exit(self, pid: int, /) -> None:
        """Do nothing: the engine knows no agents."""

    async def close(self) -> None:
        await self._core.close()

    def _sink(self, reports: Sequence[Report]) -> None:
        for report in reports:
            if isinstance(report, Finished):
                future = self._pending.pop(report.run_id)
                if not future.done():
                    future.set_result(None)
            elif isinstance(report, Failed):
                raise report.error


class UnderKernel:
    """Agents that call the core through a kernel."""

    def __init__(self, core: SimulatedCore, policy: str, weights: Mapping[str, float]) -> None:
        groups = {name: GroupConfig(weight=weight) for name, weight in weights.items()}
        config = KernelConfig(
            groups=groups,
            scheduler=SchedulerConfig(policy=policy),
            guard=RunawayGuard(max_repeats=None, max_calls=None),
            drain_s=0.0,
        )
        self._kernel = Kernel(config, cores=[core])
        self._agents: dict[int, Any] = {}

    async def start(self) -> None:
        await self._kernel.__aenter__()

    async def join(self, plan: Plan, /) -> int:
        agent = await self._kernel.aspawn(f"{plan.group} agent", group=plan.group)
        self._agents[agent.pid] = agent
        return int(agent.pid)

    async def generate(self, pid: int, request: LLMGenerate, /) -> None:
        limit = request.sampling.max_tokens
        limits = {} if limit is None else {"max_tokens": limit}
        await self._agents[pid].llm.agenerate(request.messages, extra=request.extra, **limits)

    def exit(self, pid: int, /) -> None:
        self._agents[pid].request_exit()

    async def close(self) -> None:
        await self._kernel.__aexit__(None, None, None)
