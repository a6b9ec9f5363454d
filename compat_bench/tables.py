"""The results as tables: once as data, shown in the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compat_bench.records import KERNEL, NATIVE, Results, mean, quantile


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, columns and rows of text. The first column is a name."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Results) -> list[Table]:
    """All that there are rows for."""
    made = (_answers(results), _kinds(results), _loads(results), _overheads(results))
    return [table for table in (*made, _mixed(results)) if table.rows]


def _answers(results: Results) -> Table:
    rows = []
    for framework in results.frameworks():
        found = results.correctness(framework)
        if found.native or found.kernel:
            rows.append(
                (
                    framework,
                    _share(found.native_right, found.native),
                    _share(found.kernel_right, found.kernel),
                    _share(found.same, found.both),
                    str(sum(bool(r.error) for r in results.tasks if r.framework == framework)),
                )
            )
    return Table(
        "Answers",
        "Right: exactly the right tool calls and the right final answer. Same: equal calls and "
        "equal answers, natively and on the kernel.",
        ("framework", "right, native", "right, kernel", "same as native", "errors"),
        tuple(rows),
    )


def _kinds(results: Results) -> Table:
    rows = []
    for kind in results.kinds():
        cells = [kind]
        for framework in results.frameworks():
            found = results.correctness(framework, kind)
            if not (found.native or found.kernel):
                cells.append("-")
                continue
            cells.append(
                f"{_share(found.native_right, found.native)}, "
                f"{_share(found.kernel_right, found.kernel)}, {_share(found.same, found.both)}"
            )
        rows.append(tuple(cells))
    return Table(
        "Answers by kind of task",
        "Right natively, right on the kernel, same.",
        ("task", *results.frameworks()),
        tuple(rows),
    )


def _loads(results: Results) -> Table:
    rows = [
        (
            row.framework,
            str(row.agents),
            row.system,
            f"{row.per_minute:.0f}",
            f"{mean(row.turnarounds_s):.2f} s",
            f"{quantile(row.turnarounds_s, 0.9):.2f} s",
            f"{mean(row.waits_s):.2f} s" if row.waits_s else "-",
            f"{row.right}/{row.tasks}",
        )
        for row in sorted(results.loads, key=lambda r: (r.framework, r.agents, r.system == KERNEL))
    ]
    return Table(
        "Agents at once",
        "Each agent does one task. Waiting: of an LLM call, until it runs for the first time.",
        (
            "framework",
            "agents",
            "system",
            "tasks/min",
            "mean turnaround",
            "p90",
            "mean waiting",
            "right",
        ),
        tuple(rows),
    )


def _overheads(results: Results) -> Table:
    by_key = {(row.framework, row.system): row for row in results.overheads}
    rows = []
    for framework in results.frameworks():
        native, kernel = by_key.get((framework, NATIVE)), by_key.get((framework, KERNEL))
        if native is None or kernel is None:
            continue
        rows.append(
            (
                framework,
                f"{native.p50_us / 1e3:.2f} / {native.p99_us / 1e3:.2f} ms",
                f"{kernel.p50_us / 1e3:.2f} / {kernel.p99_us / 1e3:.2f} ms",
            )
        )
    return Table(
        "Overhead of a call",
        "p50 / p99 of a framework's smallest call when the model costs nothing: over HTTP to a "
        "plain server on this machine, and through the adapter to the kernel in this process.",
        ("framework", "native", "kernel"),
        tuple(rows),
    )


def _mixed(results: Results) -> Table:
    rows = [
        (
            row.system,
            row.framework,
            f"{row.agents}",
            f"{row.makespan_s:.1f} s",
            f"{row.mean_turnaround_s:.2f} s",
            f"{row.p90_turnaround_s:.2f} s",
        )
        for row in results.mixed
    ]
    return Table(
        "All frameworks at the same time",
        "Each for itself: every framework has a plain server and a copy of the model of its own, "
        "on the same machine. One kernel: all of them share it.",
        ("system", "framework", "agents", "done after", "mean turnaround", "p90"),
        tuple(rows),
    )


def markdown(results: Results) -> Iterator[str]:
    """The tables as Markdown, line by line."""
    yield "# Compatibility benchmark"
    yield ""
    yield from (f"- {key}: {value}" for key, value in results.about.items())
    if not results.is_complete:
        yield "- **Interrupted: this is what was complete.**"
    yield from (f"- {name} was skipped: {why}" for name, why in results.skipped.items())
    for table in tables(results):
        yield from ("", f"## {table.title}", "", table.note, "")
        yield f"| {' | '.join(table.columns)} |"
        yield f"|{'---|' * len(table.columns)}"
        yield from (f"| {' | '.join(cells)} |" for cells in table.rows)


def _share(count: int, total: int) -> str:
    return f"{count}/{total}" if total else "-"
