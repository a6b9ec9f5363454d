"""The results as tables: once as data, shown in the terminal, in Markdown and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compat_bench.findings import findings
from compat_bench.records import ALONE, BARE, KERNEL, NATIVE, OverheadRow, Results, mean, quantile

NOT_RUN = "not run"
NOT_OFFERED = "not offered"


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, columns and rows of text. The first column is a name."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Results) -> list[Table]:
    """All that there are rows for."""
    made = (
        _answers(results),
        _kinds(results),
        _problems(results),
        _loads(results),
        _overheads(results),
        _mixed(results),
    )
    return [table for table in made if table.rows]


def matrix(results: Results) -> Table:
    """Frameworks by what their agents did: only what this run has rows for."""
    frameworks = results.frameworks()
    rows = [
        (kind, *(_matrix_cell(results, framework, kind) for framework in frameworks))
        for kind in results.kinds
    ]
    for agents in sorted({row.agents for row in results.loads}):
        cells = [_speed_cell(results, framework, agents) for framework in frameworks]
        rows.append((f"{agents} agent{'s' if agents > 1 else ''} at once", *cells))
    if results.mixed:
        cells = [_mixed_cell(results, framework) for framework in frameworks]
        rows.append(("with the other frameworks", *cells))
    return Table(
        "Results of each framework's agents",
        "Tasks with equal calls and answers on the kernel and natively; at once and with other "
        "frameworks: tasks a minute on the kernel, against natively.",
        ("", *frameworks),
        tuple(rows),
    )


def kind_cell(results: Results, framework: str, kind: str) -> str:
    """Describe the results of a kind: numbers, or why there are none."""
    found = results.correctness(framework, kind)
    if not results.is_offered(framework, kind):
        return NOT_OFFERED
    skipped = [
        f"skipped {where}"
        for system, where in ((NATIVE, "natively"), (KERNEL, "on the kernel"))
        if results.why_skipped(framework, kind, system)
    ]
    if not (found.native or found.kernel):
        return "; ".join(skipped) or NOT_RUN
    numbers = [
        (
            f"{_share(found.native_right, found.native)}, "
            f"{_share(found.kernel_right, found.kernel)}, {_share(found.same, found.both)}"
        )
    ]
    return "; ".join(numbers + skipped)


def _matrix_cell(results: Results, framework: str, kind: str) -> str:
    found = results.correctness(framework, kind)
    if found.both:
        return f"{found.same} of {found.both}"
    if not results.is_offered(framework, kind):
        return NOT_OFFERED
    why = results.why_skipped(framework, kind)
    return f"skipped: {why.partition(' (')[0]}" if why else NOT_RUN


def _speed_cell(results: Results, framework: str, agents: int) -> str:
    by_system = {
        row.system: row.per_minute
        for row in results.loads
        if (row.framework, row.agents) == (framework, agents)
    }
    return _against(by_system.get(NATIVE), by_system.get(KERNEL))


def _mixed_cell(results: Results, framework: str) -> str:
    by_system = {
        row.system: 60 * row.agents / row.makespan_s
        for row in results.mixed
        if row.framework == framework and row.makespan_s
    }
    return _against(by_system.get("each for itself"), by_system.get("one kernel"))


def _against(native: float | None, kernel: float | None) -> str:
    if not native or not kernel:
        return NOT_RUN
    return f"{kernel / native:.1f}x"


def _answers(results: Results) -> Table:
    rows = []
    for framework in results.frameworks():
        found = results.correctness(framework)
        mine = [row for row in results.tasks if row.framework == framework]
        if mine:
            rows.append(
                (
                    framework,
                    _share(found.native_right, found.native),
                    _share(found.kernel_right, found.kernel),
                    _share(found.same, found.both),
                    str(sum(bool(row.skipped) for row in mine)),
                    str(sum(bool(row.error) for row in mine)),
                )
            )
    return Table(
        "Answers",
        "Right: exactly the right tool calls and the right final answer. Same: equal calls and "
        "equal answers, natively and on the kernel.",
        ("framework", "right, native", "right, kernel", "same as native", "skipped", "errors"),
        tuple(rows),
    )


def _kinds(results: Results) -> Table:
    frameworks = [row for row in results.frameworks() if results.correctness(row).native]
    rows = [
        (kind, *(kind_cell(results, framework, kind) for framework in frameworks))
        for kind in (results.kinds if frameworks else ())
    ]
    whys = dict.fromkeys(row.skipped for row in results.tasks if row.skipped)
    reasons = f" Skipped: {'; '.join(whys)}." if whys else ""
    return Table(
        "Answers by kind of task",
        f"Right natively, right on the kernel, same.{reasons}",
        ("task", *frameworks),
        tuple(rows),
    )


def _problems(results: Results) -> Table:
    rows = []
    for framework in results.frameworks():
        passed: dict[str, dict[str, bool]] = {NATIVE: {}, KERNEL: {}}
        written: dict[str, dict[str, str]] = {NATIVE: {}, KERNEL: {}}
        for row in results.problems:
            if row.framework == framework:
                passed[row.system][row.problem] = row.is_passed
                written[row.system][row.problem] = row.completion
        both = written[NATIVE].keys() & written[KERNEL].keys()
        if passed[NATIVE] or passed[KERNEL]:
            same = sum(written[NATIVE][problem] == written[KERNEL][problem] for problem in both)
            rows.append(
                (
                    framework,
                    _rate(passed[NATIVE]),
                    _rate(passed[KERNEL]),
                    _share(same, len(both)),
                )
            )
    return Table(
        "Programming problems",
        "pass@1: the share of problems with a first answer that passes its test in the sandbox. "
        "Same: equal code, natively and on the kernel.",
        ("framework", "pass@1, native", "pass@1, kernel", "same as native"),
        tuple(rows),
    )


def _rate(passed: dict[str, bool]) -> str:
    if not passed:
        return "-"
    return f"{sum(passed.values()) / len(passed):.3f} ({sum(passed.values())}/{len(passed)})"


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
            str(row.failed),
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
            "failed",
        ),
        tuple(rows),
    )


def _overheads(results: Results) -> Table:
    by_key = {(row.framework, row.system): row for row in results.overheads}
    bare = by_key.get((BARE, KERNEL))
    rows = []
    for framework in results.frameworks():
        native, kernel = by_key.get((framework, NATIVE)), by_key.get((framework, KERNEL))
        if native is None or kernel is None:
            continue
        alone = by_key.get((framework, ALONE))
        rows.append(
            (
                framework,
                _took(alone),
                _took(native),
                _took(kernel),
                f"{(kernel.p50_us - alone.p50_us) / bare.p50_us:.1f}x"
                if bare is not None and alone is not None
                else "-",
            )
        )
    own = (
        f" The kernel's own call, with no framework, takes {_took(bare)}."
        if bare is not None
        else ""
    )
    return Table(
        "Overhead of a call",
        "p50 / p99 of a framework's smallest call when the model costs nothing: with a model in "
        "this process that answers at once; over HTTP to a plain server on this machine; through "
        "the adapter to the kernel in this process. The last column is what the kernel adds to "
        f"the framework's own time, in calls of the kernel.{own}",
        ("framework", "alone", "native", "kernel", "kernel adds"),
        tuple(rows),
    )


def _took(row: OverheadRow | None) -> str:
    return f"{row.p50_us / 1e3:.2f} / {row.p99_us / 1e3:.2f} ms" if row is not None else "-"


def _mixed(results: Results) -> Table:
    rows = [
        (
            row.system,
            row.framework,
            f"{row.agents}",
            f"{row.makespan_s:.1f} s",
            f"{row.mean_turnaround_s:.2f} s",
            f"{row.p90_turnaround_s:.2f} s",
            f"{row.right}/{row.agents}",
        )
        for row in results.mixed
    ]
    return Table(
        "All frameworks at the same time",
        "Each for itself: every framework has a plain server of its own, and those share this "
        "machine and the weights (or all ask the server that was given). One kernel: all of them "
        "share it, with the same tasks.",
        ("system", "framework", "agents", "done after", "mean turnaround", "p90", "right"),
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
    yield from (f"- {note}" for note in results.notes)
    if found := findings(results):
        yield from ("", "## In short", "", *(f"- {line}" for line in found))
    for table in (matrix(results), *tables(results)):
        if table.rows:
            yield from ("", f"## {table.title}", "", table.note, "", *grid(table))


def grid(table: Table) -> Iterator[str]:
    """A table alone."""
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'---|' * len(table.columns)}"
    for cells in table.rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _share(count: int, total: int) -> str:
    return f"{count}/{total}" if total else "-"
