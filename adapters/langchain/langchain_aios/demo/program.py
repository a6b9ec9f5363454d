"""The demo from its command line to its files.

Ctrl-C at any time ends it cleanly: what was complete by then is shown and written.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from aios_core import tiny_model_path
from langchain_aios.demo import output_files, systems
from langchain_aios.demo.arguments import parser
from langchain_aios.demo.display import Display, print_table, shared, spreads, summary
from langchain_aios.demo.kernel_agents import installed_frameworks
from langchain_aios.demo.native import NativeChat
from langchain_aios.demo.records import Run, Score, mean_score, score
from langchain_aios.demo.verdict import OtherLoad, busy_note, verdict
from langchain_aios.demo.workload import (
    GROUPS,
    LIGHT,
    AgentPlan,
    Size,
    make_members,
    make_mixed_agents,
)

INTERRUPTED: Final = 130
_QUICK: Final = Size(
    num_heavy=2, num_light=1, num_steps=2, num_errands=1, num_each=1, think_s=(0.0, 0.1)
)


@dataclass(slots=True)
class Results:
    """The results so far."""

    runs: list[Run] = field(default_factory=list)  # of all groups together
    alone: dict[str, dict[str, Run]] = field(default_factory=dict)  # by kind of system, by group
    frameworks: Run | None = None  # agents of every framework on one kernel

    def rounds(self) -> list[dict[str, Score]]:
        """The complete runs in numbers, round by round, by system."""
        rounds: list[dict[str, Score]] = []
        for run in self.runs:
            while len(rounds) < run.round:
                rounds.append({})
            rounds[run.round - 1][run.system] = self._score(run)
        return rounds

    def scores(self) -> list[Score]:
        """Each system in numbers, over all of its complete rounds."""
        by_system: dict[str, list[Run]] = {}
        for run in self.runs:
            by_system.setdefault(run.system, []).append(run)
        return [mean_score(list(map(self._score, runs)), runs) for runs in by_system.values()]

    def first_runs(self) -> list[tuple[Run, Score]]:
        """The first complete run of each system, with its numbers."""
        first: dict[str, Run] = {}
        for run in self.runs:
            first.setdefault(run.system, run)
        return [(run, self._score(run)) for run in first.values()]

    def _score(self, run: Run) -> Score:
        kind = "native" if run.system == systems.NATIVE else "kernel"
        return score(run, self.alone[kind], LIGHT)


def run(argv: Sequence[str]) -> int:
    """Run the demo; returns its exit status."""
    options = parser().parse_args(argv)
    console, results = Console(), Results()
    size = _QUICK if options.quick else Size()
    members = make_members(size, options.seed)
    started_at, others = time.perf_counter(), OtherLoad()
    status = 0
    try:
        asyncio.run(_Demo(options, size, members, results, console).run())
    except KeyboardInterrupt:
        console.print("[yellow]Interrupted; this is what was complete:[/]")
        status = INTERRUPTED
    if results.runs:
        _report(results, Path(options.out), console, busy_note(others.share()))
    console.print(f"{time.perf_counter() - started_at:.0f} s in all.", highlight=False)
    return status


class _Demo:
    """The stages, one after the other; complete ones are in the results."""

    def __init__(
        self,
        options: argparse.Namespace,
        size: Size,
        members: list[AgentPlan],
        results: Results,
        console: Console,
    ) -> None:
        self._options = options
        self._size = size
        self._members = members
        self._results = results
        self._display = Display(console, GROUPS)

    async def run(self) -> None:
        with self._display:
            self._display.say("loading the model as transformers does")
            chat = await asyncio.to_thread(_load)
            await chat.ainvoke("hi")  # the first call of a process is slow
            await self._alone("native", systems.NATIVE, 1, chat)
            await self._alone("kernel", "fifo", self._options.slots, None)
            for number in range(1, self._options.rounds + 1):
                await self._round(number, chat)
            await self._run_frameworks()

    async def _round(self, number: int, chat: NativeChat) -> None:
        """Every system once; in every other round from last to first.

        A machine that gets busier, or quieter, then favours none of them.
        """
        order = (systems.NATIVE, *self._options.policies)
        for system in order if number % 2 else reversed(order):
            if system == systems.NATIVE:
                await self._together(number, system, 1, chat)
            else:
                await self._together(number, system, self._options.slots, None)

    async def _run_frameworks(self) -> None:
        """Agents of every installed framework, a group for each, on one kernel."""
        policies = self._options.policies
        policy = "fair" if "fair" in policies else policies[0]
        self._display.say("loading the frameworks")
        frameworks = await asyncio.to_thread(installed_frameworks)
        crew = make_mixed_agents(tuple(frameworks), self._size, self._options.seed)
        run = Run(policy, self._options.slots, sum(len(member.work) for member in crew))
        self._display.begin(run, "every framework on one kernel", groups=tuple(frameworks))
        await systems.run_frameworks(crew, frameworks, policy, run)
        self._display.end()
        self._results.frameworks = run

    async def _alone(self, kind: str, system: str, slots: int, chat: NativeChat | None) -> None:
        """Each group with the machine to itself: what the others' slowdown is measured by."""
        runs = self._results.alone[kind] = {}
        for group in GROUPS:
            members = [member for member in self._members if member.group == group]
            runs[group] = await self._stage(system, slots, members, chat, f"{group} alone")

    async def _together(
        self, number: int, system: str, slots: int, chat: NativeChat | None
    ) -> None:
        title = f"all together, round {number} of {self._options.rounds}"
        run = await self._stage(system, slots, self._members, chat, title)
        run.round = number
        self._results.runs.append(run)
        self._display.show(self._results.scores())

    async def _stage(
        self, system: str, slots: int, members: list[AgentPlan], chat: NativeChat | None, title: str
    ) -> Run:
        run = Run(system, slots, sum(len(member.work) for member in members))
        self._display.begin(run, title)
        if chat is not None:
            await systems.run_native(members, chat, run)
        else:
            quantum = None if system == "fifo" else systems.QUANTUM
            await systems.run_on_kernel(members, system, quantum, run)
        self._display.end()
        return run


def _load() -> NativeChat:
    import torch  # noqa: PLC0415 - takes seconds

    # For all systems: more threads make a model of this size slower.
    torch.set_num_threads(1)
    return NativeChat(path=tiny_model_path())


def _report(results: Results, out: Path, console: Console, note: str) -> None:
    scores = results.scores()
    print_table(console, summary(scores))
    print_table(console, spreads(scores))
    if results.frameworks is not None:
        print_table(console, shared(results.frameworks))
    complete = [scores for scores in results.rounds() if len(scores) == len(results.rounds()[0])]
    for sentence in (*verdict(complete, systems.NATIVE), note):
        if sentence:
            console.print(sentence, highlight=False)
    written = output_files.write(
        out,
        results.runs,
        scores,
        results.alone,
        frameworks=results.frameworks,
        drawn=results.first_runs(),
    )
    console.print("Written: " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)
