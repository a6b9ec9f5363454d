"""Record the runs of agents, and compute the numbers of the demo from them.

Plain data and pure functions; times are seconds from the start of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from time import monotonic


@dataclass(slots=True)
class Stopwatch:
    """A clock that returns the seconds since it was started."""

    clock: Callable[[], float] = monotonic
    started_at: float = 0.0

    def start(self) -> None:
        self.started_at = self.clock()

    def __call__(self) -> float:
        return self.clock() - self.started_at


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task that is done, rightly or not."""

    agent: str
    group: str
    kind: str
    started_at: float
    ended_at: float
    is_right: bool

    @property
    def turnaround_s(self) -> float:
        return self.ended_at - self.started_at


@dataclass(slots=True)
class CallRecord:
    """An LLM call: when it was made, when it held a slot, when it was answered."""

    agent: str
    group: str
    submitted_at: float
    stretches: list[tuple[float, float]] = field(default_factory=list)
    running_since: float | None = None
    ended_at: float | None = None

    def run(self, now: float) -> None:
        """It takes a slot."""
        self.running_since = now

    def pause(self, now: float) -> None:
        """It gives the slot back."""
        if self.running_since is not None:
            self.stretches.append((self.running_since, now))
            self.running_since = None

    def end(self, now: float) -> None:
        self.pause(now)
        self.ended_at = now

    @property
    def waited_s(self) -> float:
        """Time between submission and answer in which it held no slot."""
        if self.ended_at is None:
            return 0.0
        held = sum(end - start for start, end in self.stretches)
        return max(0.0, self.ended_at - self.submitted_at - held)


@dataclass(slots=True)
class Run:
    """One go of all agents, or of one group alone, on one system."""

    system: str  # "native", or a policy of the kernel
    num_slots: int
    num_tasks: int
    tasks: list[TaskRecord] = field(default_factory=list)
    calls: list[CallRecord] = field(default_factory=list)  # of the LLM
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by group and kind
    round: int = 1
    is_complete: bool = False

    @property
    def makespan_s(self) -> float:
        return max((task.ended_at for task in self.tasks), default=0.0)

    def end_of(self, group: str) -> float:
        """When a group was done."""
        return max((task.ended_at for task in self.tasks if task.group == group), default=0.0)

    def num_requests(self, group: str, kind: str) -> int:
        """Syscalls of a group other than to the LLM: "tool.run", or all of "memory"."""
        return sum(
            number
            for (whose, what), number in self.requests.items()
            if whose == group and (what == kind or what.startswith(f"{kind}."))
        )

    def turnarounds(self, groups: Iterable[str]) -> list[float]:
        wanted = set(groups)
        return [task.turnaround_s for task in self.tasks if task.group in wanted]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of some seconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(fmean(values) if values else 0.0, *(percentile(values, p) for p in (50, 90, 99)))


@dataclass(frozen=True, slots=True)
class Score:
    """A run in numbers."""

    system: str
    num_right: int
    num_tasks: int
    makespan_s: float
    tasks_per_s: float
    turnaround: Spread  # of a task
    waiting: Spread  # of an LLM call
    slowdown: float  # of the light groups' tasks, against their group alone
    jain: float  # of the groups' progress, each against the group alone


def score(run: Run, alone: dict[str, Run], light: Sequence[str]) -> Score:
    """The numbers of a run.

    `alone` holds, for each group, a run of that group with the machine to itself,
    on the same kind of system. A group's progress is the time that it took alone
    over the time that it took among the others: 1 is as fast as alone.
    """
    progress = [
        min(1.0, alone[group].end_of(group) / run.end_of(group))
        for group in alone
        if run.end_of(group)
    ]
    apart = [time for group in light for time in alone[group].turnarounds([group])]
    together = run.turnarounds(light)
    return Score(
        system=run.system,
        num_right=sum(task.is_right for task in run.tasks),
        num_tasks=run.num_tasks,
        makespan_s=run.makespan_s,
        tasks_per_s=len(run.tasks) / run.makespan_s if run.tasks else 0.0,
        turnaround=Spread.of([task.turnaround_s for task in run.tasks]),
        waiting=Spread.of([call.waited_s for call in run.calls if call.ended_at is not None]),
        slowdown=fmean(together) / fmean(apart) if together and apart else 0.0,
        jain=jain(progress),
    )


def mean_score(scores: Sequence[Score], runs: Sequence[Run]) -> Score:
    """Sum up several runs of one system: means, and spreads over all tasks and calls."""
    return Score(
        system=scores[0].system,
        num_right=sum(each.num_right for each in scores),
        num_tasks=sum(each.num_tasks for each in scores),
        makespan_s=fmean(each.makespan_s for each in scores),
        tasks_per_s=fmean(each.tasks_per_s for each in scores),
        turnaround=Spread.of([task.turnaround_s for run in runs for task in run.tasks]),
        waiting=Spread.of(
            [call.waited_s for run in runs for call in run.calls if call.ended_at is not None]
        ),
        slowdown=fmean(each.slowdown for each in scores),
        jain=fmean(each.jain for each in scores),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 if all shares are equal, 1/n if one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def lanes(calls: Iterable[CallRecord]) -> list[tuple[int, float, float, CallRecord]]:
    """Every stretch of every call with the number of the slot that it held: the lowest free one."""
    stretches = sorted(
        ((start, end, n, call) for n, call in enumerate(calls) for start, end in call.stretches),
    )
    free_at: list[float] = []
    placed = []
    for start, end, _, call in stretches:
        lane = next((n for n, free in enumerate(free_at) if free <= start + 1e-9), len(free_at))
        free_at[lane : lane + 1] = [end]
        placed.append((lane, start, end, call))
    return placed
