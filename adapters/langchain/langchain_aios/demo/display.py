"""Show the demo: a live table on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from langchain_aios.demo.records import Run, Score, Spread

COLOURS: Final = {"batch": "#5b7ba6", "chat": "#e8833a", "desk": "#3a9d8f"}


class Display:
    """A context manager that shows the progress while it is open."""

    def __init__(self, console: Console, groups: Sequence[str]) -> None:
        self._console = console
        self._groups = groups
        self._scores: list[Score] = []
        self._run: Run | None = None
        self._title = ""
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=5,
            transient=True,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, what: str) -> None:
        """Something takes a moment."""
        self._title = what
        if not self._console.is_terminal:
            self._console.print(what, highlight=False)

    def begin(self, run: Run, title: str, *, groups: Sequence[str] | None = None) -> None:
        """Show this run from now on; `groups`: its own, if they are others."""
        self._run = run
        self._groups = self._groups if groups is None else groups
        self._title = f"{run.system}: {title}"

    def end(self) -> None:
        """The run is complete."""
        if self._run and not self._console.is_terminal:
            right = sum(task.is_right for task in self._run.tasks)
            self._console.print(
                f"{self._title}: {right} of {self._run.num_tasks} tasks right "
                f"in {self._run.makespan_s:.1f} s",
                highlight=False,
            )

    def show(self, scores: Sequence[Score]) -> None:
        """Show the numbers so far above what is running."""
        self._scores = list(scores)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._scores:
            parts.append(summary(self._scores))
        parts.append(Text(self._title, style="bold"))
        if self._run:
            parts.append(_progress(self._run, self._groups))
        return Group(*parts)


def _progress(run: Run, groups: Sequence[str]) -> Table:
    """One row a group: what is done, runs and waits."""
    tasks, calls = tuple(run.tasks), tuple(run.calls)
    table = Table(box=None, pad_edge=False)
    for name in ("group", "tasks done", "right", "calls running", "waiting"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group in groups:
        done = [task for task in tasks if task.group == group]
        live = [call for call in calls if call.group == group and call.ended_at is None]
        running = sum(call.running_since is not None for call in live)
        table.add_row(
            Text(group, style=COLOURS.get(group, "")),
            str(len(done)),
            str(sum(task.is_right for task in done)),
            str(running),
            str(len(live) - running),
        )
    table.add_row("all", ProgressBar(run.num_tasks, len(tasks), width=20))
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table whole: where the terminal is too narrow for it, a row becomes some lines."""
    wanted = Measurement.get(console, console.options.update(max_width=1_000), table)
    if wanted.minimum <= console.width:
        console.print(table)
        return
    columns = [(str(column.header).split(), list(column.cells)) for column in table.columns]
    console.print(f"[italic]{table.title}[/]")
    for row in range(table.row_count):
        for number, (header, cells) in enumerate(columns):
            text = str(cells[row])
            console.print(f"[bold]{text}[/]" if not number else f"  {' '.join(header)}: {text}")


_PERCENTILES: Final = ("mean", "p50", "p90", "p99")


def summary(scores: Sequence[Score]) -> Table:
    """One row a system: how much was done, how fast, how fairly."""
    table = Table(title="The same agents on one model", title_justify="left")
    table.add_column("system", style="bold", no_wrap=True)
    for name in (
        "tasks\nright",
        "makespan\ns",
        "tasks\nper s",
        "light groups\nslowed down",
        "Jain\nindex",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(
            score.system,
            f"{score.num_right}/{score.num_tasks}",
            f"{score.makespan_s:.1f}",
            f"{score.tasks_per_s:.2f}",
            f"{score.slowdown:.2f}x",
            f"{score.jain:.3f}",
        )
    return table


def spreads(scores: Sequence[Score]) -> Table:
    """One row a system: how long tasks took and calls waited."""
    table = Table(
        title="Seconds: turnaround of tasks, waiting of LLM calls",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("\n\nsystem", style="bold", no_wrap=True)
    for what in ("turn-\naround", "\nwaiting"):
        for name in _PERCENTILES:
            above = what if name == _PERCENTILES[0] else "\n"
            table.add_column(f"{above}\n{name}", justify="right", no_wrap=True)
    for score in scores:
        table.add_row(score.system, *_values(score.turnaround), *_values(score.waiting))
    return table


def shared(run: Run) -> Table:
    """One row a framework: what its agents did on the kernel that all of them shared."""
    groups = sorted({task.group for task in run.tasks})
    table = Table(
        title=f"Every framework on one kernel ({run.system}), {run.makespan_s:.1f} s",
        title_justify="left",
    )
    table.add_column("framework", style="bold", no_wrap=True)
    for name in (
        "agents",
        "tasks\nright",
        "LLM\ncalls",
        "tool\nruns",
        "memory\nsyscalls",
        "storage\nsyscalls",
        "mean wait\ns",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        tasks = [task for task in run.tasks if task.group == group]
        calls = [call for call in run.calls if call.group == group and call.ended_at is not None]
        waits = Spread.of([call.waited_s for call in calls])
        table.add_row(
            group,
            str(len({task.agent for task in tasks})),
            f"{sum(task.is_right for task in tasks)}/{len(tasks)}",
            str(len(calls)),
            str(run.num_requests(group, "tool.run")),
            str(run.num_requests(group, "memory")),
            str(run.num_requests(group, "storage")),
            f"{waits.mean:.2f}",
        )
    return table


def _values(spread: Spread) -> list[str]:
    return [f"{getattr(spread, name):.2f}" for name in _PERCENTILES]
