"""A picture of who held the slots, and when: a row for each system, a line for each slot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from langchain_aios.demo.display import COLOURS
from langchain_aios.demo.records import Run, Score, lanes
from langchain_aios.demo.workload import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK: Final = "#22303c"
_FAINT: Final = "#8a97a3"
_CAPTION: Final = (
    "A line is a slot; a block is a call of an agent, or a stretch of one between preemptions. "
    "The dashed line: the light groups are done."
)


def draw(runs: Sequence[Run], scores: Sequence[Score], path: Path) -> Path:
    """Draw the runs as a PNG. Raises `ModuleNotFoundError` without matplotlib."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and needed here alone
    from matplotlib.patches import Patch  # noqa: PLC0415

    figure = Figure(figsize=(12, 1.3 * len(runs) + 1.8), dpi=150, facecolor="white")
    axes: Any = figure.subplots(len(runs), 1, sharex=True, squeeze=False)[:, 0]
    longest = max(run.makespan_s for run in runs)
    for run, score, row in zip(runs, scores, axes, strict=True):
        _draw_run(row, run, score)
        row.set_xlim(0, longest * 1.01)
    axes[-1].set_xlabel("seconds", color=_INK)
    axes[-1].tick_params(axis="x", length=3, colors=_FAINT)
    top = 1 - 0.32 / figure.get_figheight()
    figure.text(0.012, top, "Who held the slots", size=15, weight="bold", color=_INK, va="center")
    figure.text(0.012, top - 0.3 / figure.get_figheight(), _CAPTION, color=_FAINT, va="center")
    groups = [group for group in COLOURS if any(run.end_of(group) for run in runs)]
    figure.legend(
        handles=[Patch(color=COLOURS.get(group, _FAINT), label=group) for group in groups],
        loc="center right",
        bbox_to_anchor=(0.995, top),
        ncols=len(groups),
        frameon=False,
        labelcolor=_INK,
        handlelength=1.2,
    )
    figure.subplots_adjust(
        left=0.1, right=0.985, top=1 - 1.2 / figure.get_figheight(), bottom=0.09, hspace=0.5
    )
    figure.savefig(path)
    return path


def _draw_run(row: Axes, run: Run, score: Score) -> None:
    for slot, start, end, call in lanes(run.calls):
        row.broken_barh(
            [(start, end - start)],
            (slot + 0.06, 0.88),
            facecolor=COLOURS.get(call.group, _FAINT),
            edgecolor="white",
            linewidth=0.25,
        )
    light_done = max(run.end_of(group) for group in LIGHT)
    row.axvline(light_done, color=_INK, linewidth=1, linestyle=(0, (3, 2)))
    row.grid(axis="x", color="white", linewidth=1)
    row.set_axisbelow(True)
    row.set_ylim(run.num_slots, 0)
    row.set_yticks([])
    row.set_ylabel(
        run.system, rotation=0, ha="right", va="center", labelpad=10, size=12, color=_INK
    )
    row.tick_params(axis="x", length=0, labelbottom=row.get_subplotspec().is_last_row())  # type: ignore[union-attr]
    for side in row.spines.values():
        side.set_visible(False)
    row.set_facecolor("#f3f5f7")
    said = (
        f"{score.num_right} of {score.num_tasks} tasks right in {score.makespan_s:.1f} s;  "
        f"light groups slowed down {score.slowdown:.1f}x;  Jain index {score.jain:.2f}"
    )
    row.set_title(said, loc="left", size=9, color=_FAINT, pad=4)
