"""What was measured, as plain rows, and what follows from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

NATIVE: Final = "native"
KERNEL: Final = "kernel"


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
    calls: str  # in the order in which they were made
    turnaround_s: float
    error: str = ""


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

    @property
    def per_minute(self) -> float:
        """Tasks."""
        return 60 * self.tasks / self.makespan_s if self.makespan_s else 0.0


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """What one LLM call costs when the model costs nothing, in microseconds."""

    framework: str
    system: str
    calls: int
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class MixedRow:
    """All frameworks at the same time, with equal work each."""

    system: str  # "each for itself", or "one kernel"
    framework: str
    agents: int
    tasks: int
    makespan_s: float
    mean_turnaround_s: float
    p90_turnaround_s: float


@dataclass(slots=True)
class Results:
    """All rows of a run; it grows while the run goes on, and can be shown at any time."""

    about: dict[str, Any] = field(default_factory=dict)
    tasks: list[TaskRow] = field(default_factory=list)
    loads: list[LoadRow] = field(default_factory=list)
    overheads: list[OverheadRow] = field(default_factory=list)
    mixed: list[MixedRow] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # framework -> why
    is_complete: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def frameworks(self) -> list[str]:
        """Those that have rows, in their order."""
        rows: Iterable[Any] = (*self.tasks, *self.loads, *self.overheads)
        return list(dict.fromkeys(row.framework for row in rows))

    def correctness(self, framework: str, kind: str | None = None) -> Correctness:
        """Right answers of one framework on both systems, of one kind of task or of all."""
        by_system: dict[str, dict[str, TaskRow]] = {NATIVE: {}, KERNEL: {}}
        for row in self.tasks:
            if row.framework == framework and kind in (None, row.kind):
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

    def kinds(self) -> list[str]:
        return list(dict.fromkeys(row.kind for row in self.tasks))


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
