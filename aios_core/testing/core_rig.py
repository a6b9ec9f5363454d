"""A harness for one core: it starts runs, and checks and keeps all reports."""

from __future__ import annotations

import asyncio
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from aios_core.core import (
    Core,
    CoreDown,
    Failed,
    Finished,
    LoadChanged,
    Preempted,
    Prepared,
    Progress,
    Report,
    Run,
    Starting,
    Stopped,
)
from aios_core.messages import (
    Completion,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

Final = Finished | Preempted | Failed | Stopped


class Rig:
    """A core and everything that it reports.

    `check` requires that the reports keep the contract's grammar: progress, then
    one end for each stretch of a run, then nothing.
    """

    def __init__(self, core: Core, timeout_s: float = 10.0) -> None:
        self.core = core
        self.reports: dict[int, list[Report]] = defaultdict(list)  # by run
        self.general: list[CoreDown | LoadChanged | Starting] = []
        self.num_started: dict[int, int] = defaultdict(int)  # stretches of each run
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._ids = count(1)

    def sink(self, reports: Sequence[Report]) -> None:
        """Where the core reports to, from any thread."""
        self._loop.call_soon_threadsafe(self._take, tuple(reports))

    def _take(self, reports: Iterable[Report]) -> None:
        for report in reports:
            if isinstance(report, CoreDown | LoadChanged | Starting):
                self.general.append(report)
            else:
                self.reports[report.run_id].append(report)
        self._news.set()

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for reports until `holds()`; fail after the timeout."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(
                f"no {what} within {self._timeout_s} s; got {dict(self.reports)} {self.general}"
            ) from None

    async def prepare(self, request: LLMGenerate) -> Prepared:
        prepared = self.core.prepare(request)
        return await prepared if inspect.isawaitable(prepared) else prepared

    async def run(
        self, request: LLMGenerate, *, snapshot: Snapshot | None = None, **fields: object
    ) -> int:
        """Begin a run; its id."""
        return self.begin(request, await self.prepare(request), snapshot=snapshot, **fields)

    def begin(self, request: LLMGenerate, prepared: Prepared, **fields: object) -> int:
        run = Run(id=next(self._ids), pid=1, request=request, prepared=prepared)
        return self.go(replace(run, **fields))  # type: ignore[arg-type]

    def go(self, run: Run) -> int:
        self.num_started[run.id] += 1
        self.core.run(run)
        return run.id

    def finals(self, run_id: int) -> list[Final]:
        return [r for r in self.reports[run_id] if not isinstance(r, Progress)]  # type: ignore[misc]

    def progress(self, run_id: int) -> list[Progress]:
        return [r for r in self.reports[run_id] if isinstance(r, Progress)]

    def num_tokens(self, run_id: int) -> int:
        return sum(progress.num_tokens for progress in self.progress(run_id))

    async def end(self, run_id: int) -> Final:
        """Wait for the end of a run's present stretch."""
        due = self.num_started[run_id]
        await self.until(lambda: len(self.finals(run_id)) >= due, f"end of run {run_id}")
        return self.finals(run_id)[-1]

    async def answer(self, run_id: int) -> Completion:
        """Wait for the answer of a run that is to have one."""
        end = await self.end(run_id)
        assert isinstance(end, Finished), end
        return end.completion

    async def tokens(self, run_id: int, at_least: int = 1) -> None:
        """Wait until a run has generated something, or is over."""
        due = self.num_started[run_id]
        await self.until(
            lambda: self.num_tokens(run_id) >= at_least or len(self.finals(run_id)) >= due,
            f"{at_least} tokens of run {run_id}",
        )

    async def generate(self, request: LLMGenerate) -> Completion:
        return await self.answer(await self.run(request))

    async def settle(self) -> None:
        """Let reports on their way arrive."""
        for _ in range(3):
            await asyncio.sleep(0)

    def check(self) -> None:
        for run_id, reports in self.reports.items():
            num_ends = len(self.finals(run_id))
            assert num_ends == self.num_started[run_id], (run_id, reports)
            assert not isinstance(reports[-1], Progress), "progress after the end"
        assert set(self.reports) == set(self.num_started), "reports of unknown runs, or none"
