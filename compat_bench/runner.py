"""Runs the tasks: one by one for the answers, many at once for the times.

Stages, each of every framework, natively and on the kernel:

    answers    every task once, alone: is it right, and the same as natively?
    load       1, 16, 64 agents at once with a task each: turnaround, waiting, throughput
    overhead   calls of a model that costs nothing
    mixed      all frameworks at the same time: each with a server of its own, then on one kernel

Rows go into `Results` as soon as they are known, so whatever ends the run early
loses only what was under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from compat_bench.drivers import Driver
from compat_bench.records import (
    KERNEL,
    NATIVE,
    LoadRow,
    MixedRow,
    OverheadRow,
    Results,
    TaskRow,
    mean,
    quantile,
)
from compat_bench.sources import Models, Source, costless_endpoint, costless_kernel
from compat_bench.tasks import Outcome, Task

TASK_TIMEOUT_S: Final = 180.0
SYSTEMS: Final = (NATIVE, KERNEL)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    drivers: tuple[Driver, ...]
    tasks: tuple[Task, ...]
    agents: tuple[int, ...]
    policy: str
    overhead_calls: int = 200
    mixed_agents: int = 8  # of each framework; 0: no mixed stage

    def num_steps(self) -> int:
        """For a progress bar: tasks done, and calls of the overhead stage in tens."""
        alone = sum(len(self._of(driver)) for driver in self.drivers)
        loads = len(self.drivers) * sum(self.agents)
        mixed = self.mixed_agents * self._num_mixed()
        return len(SYSTEMS) * (alone + loads + len(self.drivers) + mixed)

    def of(self, driver: Driver) -> list[Task]:
        """The tasks that a framework can be given."""
        return self._of(driver)

    def _of(self, driver: Driver) -> list[Task]:
        return [task for task in self.tasks if task.kind in driver.kinds]

    def _num_mixed(self) -> int:
        return len(self.drivers) if len(self.drivers) > 1 else 0


class Runner:
    """See the module. `tell` is called with what is being done, `advance` after each step."""

    def __init__(
        self,
        plan: Plan,
        models: Models,
        results: Results,
        tell: Callable[[str], object],
        advance: Callable[[], object],
    ) -> None:
        self._plan = plan
        self._models = models
        self._results = results
        self._tell = tell
        self._advance = advance

    async def run(self) -> None:
        """All stages; what is known is in the results at any time."""
        for system in SYSTEMS:
            for driver in self._plan.drivers:
                with self._source(system) as source:
                    await self._answers(driver, system, source)
        for system in SYSTEMS:
            for driver in self._plan.drivers:
                for agents in self._plan.agents:
                    with self._source(system) as source:
                        await self._load(driver, system, source, agents)
        for driver in self._plan.drivers:
            with costless_endpoint() as endpoint:
                await self._overhead(driver, NATIVE, endpoint)
            with costless_kernel() as kernel:
                await self._overhead(driver, KERNEL, kernel)
        if len(self._plan.drivers) > 1 and self._plan.mixed_agents:
            await self._mixed()
        self._results.is_complete = True

    @contextmanager
    def _source(self, system: str) -> Iterator[Source]:
        if system == NATIVE:
            with self._models.endpoint() as endpoint:
                yield endpoint
        else:
            with self._models.kernel(self._plan.policy) as kernel:
                yield kernel

    async def _answers(self, driver: Driver, system: str, source: Source) -> None:
        for task in self._plan.of(driver):
            self._tell(f"{driver.name}, {system}: {task.id}")
            row, _ = await self._do(driver, system, source, task, f"{driver.name} {task.id}")
            self._results.tasks.append(row)

    async def _load(self, driver: Driver, system: str, source: Source, agents: int) -> None:
        self._tell(f"{driver.name}, {system}: {agents} agents at once")
        await driver.say(source, "warm-up")
        source.waits_s.clear()
        chosen = self._work(driver, agents)
        started = time.perf_counter()
        rows = await asyncio.gather(
            *(
                self._do(driver, system, source, task, f"{driver.name} agent {number}")
                for number, task in enumerate(chosen)
            )
        )
        self._results.loads.append(
            LoadRow(
                driver.name,
                system,
                agents,
                len(rows),
                sum(row.is_right for row, _ in rows),
                sum(bool(row.error) for row, _ in rows),
                time.perf_counter() - started,
                tuple(row.turnaround_s for row, _ in rows),
                tuple(source.waits_s),
            )
        )

    async def _overhead(self, driver: Driver, system: str, source: Source) -> None:
        self._tell(f"{driver.name}, {system}: overhead of a call")
        for _ in range(10):
            await driver.say(source, "warm-up")
        took = []
        for _ in range(self._plan.overhead_calls):
            started = time.perf_counter()
            await driver.say(source, "caller")
            took.append((time.perf_counter() - started) * 1e6)
        self._results.overheads.append(
            OverheadRow(driver.name, system, len(took), quantile(took, 0.5), quantile(took, 0.99))
        )
        self._advance()

    async def _mixed(self) -> None:
        drivers = self._plan.drivers
        with ExitStack() as stack:
            each = [stack.enter_context(self._models.endpoint()) for _ in drivers]
            await self._together("each for itself", list(zip(drivers, each, strict=True)))
        with self._models.kernel(self._plan.policy) as kernel:
            await self._together("one kernel", [(driver, kernel) for driver in drivers])

    async def _together(self, system: str, pairs: Sequence[tuple[Driver, Source]]) -> None:
        self._tell(f"all frameworks at the same time, {system}")
        agents = self._plan.mixed_agents
        side = NATIVE if system != "one kernel" else KERNEL

        async def framework(driver: Driver, source: Source) -> MixedRow:
            started = time.perf_counter()
            rows = await asyncio.gather(
                *(
                    self._do(driver, side, source, task, f"{driver.name} agent {number}")
                    for number, task in enumerate(self._work(driver, agents))
                )
            )
            turnarounds = [row.turnaround_s for row, _ in rows]
            return MixedRow(
                system,
                driver.name,
                agents,
                len(rows),
                time.perf_counter() - started,
                mean(turnarounds),
                quantile(turnarounds, 0.9),
            )

        self._results.mixed += await asyncio.gather(*(framework(*pair) for pair in pairs))

    def _work(self, driver: Driver, num: int) -> list[Task]:
        """That many tasks, in turn over the kinds."""
        able = self._plan.of(driver)
        by_kind: dict[str, list[Task]] = {}
        for task in able:
            by_kind.setdefault(task.kind, []).append(task)
        turns = [group[n] for n in range(len(able)) for group in by_kind.values() if n < len(group)]
        return [turns[n % len(turns)] for n in range(num)] if turns else []

    async def _do(
        self, driver: Driver, system: str, source: Source, task: Task, agent: str
    ) -> tuple[TaskRow, Outcome]:
        started, outcome, error = time.perf_counter(), Outcome(), ""
        try:
            outcome = await asyncio.wait_for(driver.perform(source, task, agent), TASK_TIMEOUT_S)
        except Exception as exc:  # noqa: BLE001 - a framework's failure is a result
            error = f"{type(exc).__name__}: {exc}"[:300]
        self._advance()
        row = TaskRow(
            driver.name,
            system,
            task.id,
            task.kind,
            not error and outcome.is_right(task),
            not error and outcome.has_right_calls(task),
            "\n".join(outcome.answers),
            "; ".join(map(" ".join, (call.key() for call in outcome.calls))),
            time.perf_counter() - started,
            error,
        )
        return row, outcome
