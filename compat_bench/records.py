"""The measurements as plain rows, and the figures computed from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

NATIVE: Final = "native"
KERNEL: Final = "kernel"
ALONE: Final = "alone"
BARE: Final = "no framework"


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task, done by one agent."""

    framework: str
    system: str
    task: str
    kind: str
    is_right: bool  # calls and answer
    has_right_calls: bool
    answer: str
    calls: str  # in the order in which they were made; those side by side sorted
    turnaround_s: float
    error: str = ""
    skipped: str = ""  # why it was not tried


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """One programming problem, answered through a framework and judged in the sandbox."""

    framework: str
    system: str
    problem: str
    is_passed: bool
    said: str  # of a failure: the last line that it printed
    completion: str
    error: str = ""  # there was no completion


@dataclass(frozen=True, slots=True)
class LoadRow:
    """Many agents at once, each with a task."""

    framework: str
    system: str
    agents: int
    tasks: int
    right: int
    failed: int
    makespan_s: float
    turnarounds_s: tuple[float, ...]
    waits_s: tuple[float, ...]  # of each LLM call, for its first turn
    errors: tuple[str, ...] = ()  # of the agents that failed, each once

    @property
    def per_minute(self) -> float:
        """Tasks."""
        return 60 * self.tasks / self.makespan_s if self.makespan_s else 0.0


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """The cost of one LLM call without the model, in microseconds.

    `system` may also be ALONE: the framework with a fake model of its own.
    """

    framework: str  # or BARE: the kernel's own call, with no framework
    system: str
    calls: int
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class MixedRow:
    """All frameworks at the same time, each with tasks that it takes."""

    system: str  # "each for itself", or "one kernel"
    framework: str
    agents: int  # with a task each
    right: int
    makespan_s: float
    mean_turnaround_s: float
    p90_turnaround_s: float


@dataclass(slots=True)
class Results:
    """All rows of a run. It grows during the run, and can be shown at any time."""

    about: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what a reader has to know first
    kinds: list[str] = field(default_factory=list)  # of tasks that were asked for
    offered: dict[str, list[str]] = field(default_factory=dict)  # framework -> kinds that it takes
    tasks: list[TaskRow] = field(default_factory=list)
    problems: list[ProblemRow] = field(default_factory=list)
    loads: list[LoadRow] = field(default_factory=list)
    overheads: list[OverheadRow] = field(default_factory=list)
    mixed: list[MixedRow] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # framework -> why
    is_complete: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Results:
        """What `to_dict` made. Raises `KeyError` or `TypeError` for anything else."""
        plain = {key: raw[key] for key in ("about", "skipped", "notes", "kinds", "offered")}
        return cls(
            **plain,
            tasks=[TaskRow(**row) for row in raw["tasks"]],
            problems=[ProblemRow(**row) for row in raw["problems"]],
            loads=[LoadRow(**row) for row in raw["loads"]],
            overheads=[OverheadRow(**row) for row in raw["overheads"]],
            mixed=[MixedRow(**row) for row in raw["mixed"]],
            is_complete=raw["is_complete"],
        )

    def frameworks(self) -> list[str]:
        """Those that have rows, in their order."""
        rows: Iterable[Any] = (*self.tasks, *self.problems, *self.loads, *self.overheads)
        return [name for name in dict.fromkeys(row.framework for row in rows) if name != BARE]

    def correctness(self, framework: str, kind: str | None = None) -> Correctness:
        """Right answers of one framework on both systems, of one kind of task or of all."""
        by_system: dict[str, dict[str, TaskRow]] = {NATIVE: {}, KERNEL: {}}
        for row in self.tasks:
            if row.framework == framework and kind in (None, row.kind) and not row.skipped:
                by_system[row.system][row.task] = row
        native, kernel = by_system[NATIVE], by_system[KERNEL]
        both = sorted(native.keys() & kernel.keys())
        return Correctness(
            len(native),
            len(kernel),
            sum(row.is_right for row in native.values()),
            sum(row.is_right for row in kernel.values()),
            len(both),
            sum(
                (native[task].answer, native[task].calls)
                == (kernel[task].answer, kernel[task].calls)
                for task in both
            ),
        )

    def why_skipped(self, framework: str, kind: str, system: str | None = None) -> str:
        """Why tasks of a kind were not tried; "" if they were."""
        return next(
            (
                row.skipped
                for row in self.tasks
                if row.skipped
                and (row.framework, row.kind) == (framework, kind)
                and system in (None, row.system)
            ),
            "",
        )

    def is_offered(self, framework: str, kind: str) -> bool:
        """Return whether the framework's driver takes tasks of the kind."""
        return kind in self.offered.get(framework, (kind,))


@dataclass(frozen=True, slots=True)
class Correctness:
    """Counts of tasks."""

    native: int
    kernel: int
    native_right: int
    kernel_right: int
    both: int  # done on both systems
    same: int  # of those: the same calls and the same answer


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share `q` lies (nearest rank); 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, math.ceil(q * len(ordered)) - 1))]


def mean(values: Sequence[float]) -> float:
    """0 of none."""
    return statistics.fmean(values) if values else 0.0
