"""Runs the tasks: one by one for the answers, many at once for the times.

Stages, each of every framework, natively and on the kernel:

    answers    every task once, alone: is it right, and the same as natively?
    problems   the user's programming problems: does what the model writes pass its test?
    load       1, 16, 64 agents at once with a task each: turnaround, waiting, throughput
    overhead   calls of a model that costs nothing
    mixed      all frameworks at the same time: each with a server of its own, then on one kernel

Rows go into `Results` as soon as they are known, so a run that ends early loses
only the tasks in progress.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from aios_core.tools.sandbox import Sandbox
from compat_bench.backends import KernelSource, Models, Source, costless_endpoint, costless_kernel
from compat_bench.code_execution import sandbox_refusal
from compat_bench.drivers import CannotRun, Driver, ModelFreeDriver
from compat_bench.problems import Problem, judge
from compat_bench.records import (
    ALONE,
    BARE,
    KERNEL,
    NATIVE,
    LoadRow,
    MixedRow,
    OverheadRow,
    ProblemRow,
    Results,
    TaskRow,
    mean,
    quantile,
)
from compat_bench.tasks import (
    CODE_EXECUTION,
    PARALLEL,
    PLAIN_TALK,
    RETRIEVAL,
    Outcome,
    Task,
)

TASK_TIMEOUT_S: Final = 180.0
SYSTEMS: Final = (NATIVE, KERNEL)
WARM_UPS: Final = 10
#: Their time is not the model's, so they show nothing about how it is shared.
NOT_OF_THE_MODEL: Final = frozenset({CODE_EXECUTION, RETRIEVAL})


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of a run: drivers, tasks and problems."""

    drivers: tuple[Driver, ...]
    tasks: tuple[Task, ...]
    agents: tuple[int, ...]
    policy: str
    overhead_calls: int = 200  # 0: no overhead stage
    mixed_agents: int = 8  # of each framework; 0: no mixed stage
    problems: tuple[Problem, ...] = ()

    def num_steps(self) -> int:
        """The number of steps for a progress bar: tasks, problems, and overhead measurements."""
        alone = sum(len(self.of(driver)) for driver in self.drivers)
        problems = len(self.problems) * len(self.coders())
        loads = sum(self.agents) * sum(bool(self.load_of(driver)) for driver in self.drivers)
        overheads = len(self.drivers) if self.overhead_calls else 0
        mixed = self.mixed_agents * len(self.mix())
        return len(SYSTEMS) * (alone + problems + loads + overheads + mixed)

    def of(self, driver: Driver) -> list[Task]:
        """The tasks that a framework can be given."""
        return [task for task in self.tasks if task.kind in driver.kinds]

    def load_of(self, driver: Driver) -> list[Task]:
        """Return the tasks for the load: those that mostly wait for the model, if there are any."""
        able = self.of(driver)
        return [task for task in able if task.kind not in NOT_OF_THE_MODEL] or able

    def mix(self) -> list[Driver]:
        """The frameworks of the mixed stage; none if there is none."""
        able = [driver for driver in self.drivers if self.load_of(driver)]
        return able if self.mixed_agents and len(able) > 1 else []

    def coders(self) -> list[Driver]:
        """The frameworks that can be given a problem: those that can talk."""
        return [driver for driver in self.drivers if PLAIN_TALK in driver.kinds]


class Runner:
    """Runs all tasks on every system, and collects the rows.

    `tell` is called with a description of each step, `advance` after each step.

    `refusal` is the reason why no code can be confined here, or ""; `make_sandbox` makes the
    sandbox for candidates of problems.
    """

    def __init__(
        self,
        plan: Plan,
        models: Models,
        results: Results,
        tell: Callable[[str], object],
        advance: Callable[[], object],
        *,
        refusal: Callable[[], Awaitable[str]] = sandbox_refusal,
        make_sandbox: Callable[[], Sandbox] = Sandbox,
    ) -> None:
        self._plan = plan
        self._models = models
        self._results = results
        self._tell = tell
        self._advance = advance
        self._refusal = refusal
        self._make_sandbox = make_sandbox
        self._no_sandbox = ""  # why not

    async def run(self) -> None:
        """All stages; what is known is in the results at any time."""
        plan = self._plan
        self._results.kinds = list(dict.fromkeys(task.kind for task in plan.tasks))
        self._results.offered = {driver.name: sorted(driver.kinds) for driver in plan.drivers}
        self._no_sandbox = await self._refusal()
        for system in SYSTEMS:
            for driver in plan.drivers:
                with self._source(system) as source:
                    await self._answers(driver, system, source)
        if plan.problems:
            await self._all_problems()
        for driver in plan.drivers:
            for agents in plan.agents if plan.load_of(driver) else ():
                for system in SYSTEMS:
                    with self._source(system) as source:
                        await self._load(driver, system, source, agents)
        if plan.overhead_calls:
            await self._overheads()
        if plan.mix():
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

    # --- answers ----------------------------------------------------------------------------------

    async def _answers(self, driver: Driver, system: str, source: Source) -> None:
        for task in self._plan.of(driver):
            self._tell(f"{driver.name}, {system}: {task.id}")
            if task.kind == CODE_EXECUTION and system == KERNEL and self._no_sandbox:
                row = self._skipped(driver, system, task, self._no_sandbox)
                self._advance()
            else:
                row, _ = await self._do(driver, system, source, task, f"{driver.name} {task.id}")
            self._results.tasks.append(row)

    async def _all_problems(self) -> None:
        coders = self._plan.coders()
        if self._no_sandbox:
            self._results.notes.append(f"No programming problem was run: {self._no_sandbox}")
            for _ in range(len(SYSTEMS) * len(coders) * len(self._plan.problems)):
                self._advance()
            return
        sandbox = self._make_sandbox()
        try:
            for system in SYSTEMS:
                for driver in coders:
                    with self._source(system) as source:
                        await self._problems(driver, system, source, sandbox)
        finally:
            await sandbox.close()

    async def _problems(
        self, driver: Driver, system: str, source: Source, sandbox: Sandbox
    ) -> None:
        for problem in self._plan.problems:
            name = problem.task_id
            self._tell(f"{driver.name}, {system}: {name}")
            row, outcome = await self._do(
                driver, system, source, problem.to_task(), f"{driver.name} {name}"
            )
            completion = outcome.answers[-1] if outcome.answers else ""
            error = row.error or row.skipped
            passed, said = False, ""
            if not error:
                verdict = await judge(sandbox, problem, completion)
                passed, said = verdict.is_passed, verdict.said
            self._results.problems.append(
                ProblemRow(driver.name, system, name, passed, said, completion, error)
            )

    # --- times ------------------------------------------------------------------------------------

    async def _load(self, driver: Driver, system: str, source: Source, agents: int) -> None:
        self._tell(f"{driver.name}, {system}: {agents} at once")
        await driver.say(source, "warm-up")
        source.waits_s.clear()
        chosen = _in_turn(self._plan.load_of(driver), agents)
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
                tuple(dict.fromkeys(row.error for row, _ in rows if row.error)),
            )
        )

    async def _overheads(self) -> None:
        with costless_kernel() as kernel:
            await self._overhead(BARE, KERNEL, lambda: _bare_call(kernel))
        for driver in self._plan.drivers:
            if isinstance(driver, ModelFreeDriver):
                await self._overhead(driver.name, ALONE, driver.call_without_model)
            for system in SYSTEMS:
                costless = costless_endpoint() if system == NATIVE else costless_kernel()
                with costless as source:
                    await self._overhead(driver.name, system, lambda: driver.say(source, "caller"))  # noqa: B023 - called before the next round
                self._advance()

    async def _overhead(self, name: str, system: str, call: Callable[[], Awaitable[None]]) -> None:
        self._tell(f"{name}, {system}: overhead of a call")
        for _ in range(WARM_UPS):
            await call()
        took = []
        for _ in range(self._plan.overhead_calls):
            started = time.perf_counter()
            await call()
            took.append((time.perf_counter() - started) * 1e6)
        self._results.overheads.append(
            OverheadRow(name, system, len(took), quantile(took, 0.5), quantile(took, 0.99))
        )

    async def _mixed(self) -> None:
        drivers = self._plan.mix()
        with ExitStack() as stack:
            each = [stack.enter_context(self._models.endpoint()) for _ in drivers]
            await self._together("each for itself", list(zip(drivers, each, strict=True)))
        with self._models.kernel(self._plan.policy) as kernel:
            await self._together("one kernel", [(driver, kernel) for driver in drivers])

    async def _together(self, system: str, pairs: Sequence[tuple[Driver, Source]]) -> None:
        self._tell(f"all frameworks at the same time, {system}")
        side = NATIVE if system != "one kernel" else KERNEL
        for driver, source in pairs:
            await driver.say(source, "warm-up")

        async def framework(driver: Driver, source: Source) -> MixedRow:
            chosen = _in_turn(self._plan.load_of(driver), self._plan.mixed_agents)
            started = time.perf_counter()
            rows = await asyncio.gather(
                *(
                    self._do(driver, side, source, task, f"{driver.name} agent {number}")
                    for number, task in enumerate(chosen)
                )
            )
            turnarounds = [row.turnaround_s for row, _ in rows]
            return MixedRow(
                system,
                driver.name,
                len(rows),
                sum(row.is_right for row, _ in rows),
                time.perf_counter() - started,
                mean(turnarounds),
                quantile(turnarounds, 0.9),
            )

        self._results.mixed += await asyncio.gather(*(framework(*pair) for pair in pairs))

    # --- one task ---------------------------------------------------------------------------------

    async def _do(
        self, driver: Driver, system: str, source: Source, task: Task, agent: str
    ) -> tuple[TaskRow, Outcome]:
        started, outcome, error = time.perf_counter(), Outcome(), ""
        try:
            async with asyncio.timeout(TASK_TIMEOUT_S):  # `wait_for` can lose a Ctrl-C
                outcome = await driver.perform(source, task, agent)
        except CannotRun as exc:
            self._advance()
            return self._skipped(driver, system, task, str(exc)), outcome
        except Exception as exc:  # noqa: BLE001 - a framework's failure is a result
            error = f"{type(exc).__name__}: {exc}"[:300]
        self._advance()
        made = [" ".join(call.key()) for call in outcome.calls]
        row = TaskRow(
            driver.name,
            system,
            task.id,
            task.kind,
            not error and outcome.is_right(task),
            not error and outcome.has_right_calls(task),
            "\n".join(outcome.answers),
            "; ".join(sorted(made) if task.kind == PARALLEL else made),
            time.perf_counter() - started,
            error,
        )
        return row, outcome

    def _skipped(self, driver: Driver, system: str, task: Task, why: str) -> TaskRow:
        return TaskRow(
            driver.name, system, task.id, task.kind, False, False, "", "", 0.0, skipped=why
        )


async def _bare_call(source: KernelSource) -> None:
    """The kernel's own call, as `bench/overhead.py` makes it."""
    if "bare" not in source.kept:
        source.kept["bare"] = await source.kernel.aspawn("bare")
    await source.kept["bare"].llm.agenerate("hi")


def _in_turn(tasks: Sequence[Task], num: int) -> list[Task]:
    """That many tasks, in turn over the kinds."""
    by_kind: dict[str, list[Task]] = {}
    for task in tasks:
        by_kind.setdefault(task.kind, []).append(task)
    turns = [group[n] for n in range(len(tasks)) for group in by_kind.values() if n < len(group)]
    return [turns[n % len(turns)] for n in range(num)] if turns else []
