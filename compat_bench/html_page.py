"""One self-contained HTML page of the results: findings, plots, tables; no script, nothing fetched.

It reads from the top down: what came out, what the model cannot show, who can do what, how
it behaves under load, and at the end every number.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from compat_bench.findings import findings
from compat_bench.plots import Bar, bars
from compat_bench.records import ALONE, BARE, KERNEL, NATIVE, LoadRow, Results, mean, quantile
from compat_bench.tables import NOT_OFFERED, NOT_RUN, Table, matrix, tables

_STYLE: Final = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --paper: #fff; --card: #f8fafc;
  --native: #a8b1bf; --kernel: #2563eb; --alone: #d6dae1; --good: #dcfce7; --part: #fef3c7;
  --bad: #fee2e2; --none: #f1f5f9; --warn: #b45309; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151;
  --paper: #111827; --card: #1a2333; --native: #6b7280; --kernel: #60a5fa; --alone: #4b5563;
  --good: #14532d; --part: #713f12; --bad: #7f1d1d; --none: #1f2937; --warn: #fbbf24; } }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink);
  background: var(--paper); max-width: 1080px; margin: 2.2rem auto 4rem; padding: 0 1.2rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p.note { color: var(--soft); margin: .1rem 0 .9rem; max-width: 92ch; }
p.warn { color: var(--warn); font-weight: 600; margin: .3rem 0; }
ul.short { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .9rem 1rem .9rem 2.1rem; margin: 1.1rem 0; }
ul.short li + li { margin-top: .3rem; }
div.limits { border-left: 3px solid var(--warn); padding: .1rem 0 .1rem .9rem; color: var(--soft);
  max-width: 96ch; }
div.limits p { margin: .3rem 0; }
dl { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; margin: .8rem 0 0; color: var(--soft); }
dl div { display: flex; gap: .4rem; } dd { margin: 0; color: var(--ink); }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .34rem .7rem; border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom: 2px solid var(--soft); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
table.matrix td { text-align: center; border: 2px solid var(--paper); }
table.matrix th { text-align: center; }
table.matrix td:first-child, table.matrix th:first-child { text-align: left; }
td.good { background: var(--good); } td.part { background: var(--part); }
td.bad { background: var(--bad); } td.none { background: var(--none); color: var(--soft);
  font-size: .88em; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr));
  gap: .4rem 1.4rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .93rem; margin-bottom: .2rem; }
svg { width: 100%; height: auto; max-width: 420px; }
svg text { font: 11.5px system-ui, sans-serif; fill: var(--soft); }
svg text.label { fill: var(--ink); }
.native { fill: var(--native); background: var(--native); }
.kernel { fill: var(--kernel); background: var(--kernel); }
.alone { fill: var(--alone); background: var(--alone); }
p.key { margin: .2rem 0 .8rem; color: var(--soft); }
p.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin: 0 .4em 0 0; }
p.key span { margin-right: 1.2em; }
details summary { cursor: pointer; font-weight: 600; margin-top: 2.6rem; font-size: 1.2rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .88rem; }
"""


def page(results: Results) -> str:
    """The whole page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Results) -> Iterator[str]:
    yield "<!doctype html><html lang=en><meta charset=utf-8>"
    yield "<meta name=viewport content='width=device-width,initial-scale=1'>"
    yield f"<title>AIOS: compatibility benchmark</title><style>{_STYLE}</style>"
    yield "<h1>The same agents, natively and on the kernel</h1>"
    yield (
        "<p class=note>Every agent is built twice with the classes of its framework: once on an "
        "OpenAI-compatible server, as usual, and once on the AIOS kernel. Same model, same tasks."
    )
    if not results.is_complete:
        yield "<p class=warn>Interrupted: this is what was complete.</p>"
    for name, why in results.skipped.items():
        yield f"<p class=warn>{html.escape(name)} was skipped: {html.escape(why)}</p>"
    if found := findings(results):
        yield "<ul class=short>" + "".join(f"<li>{html.escape(line)}" for line in found) + "</ul>"
    if results.notes:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in results.notes)
        yield f"<div class=limits>{notes}</div>"
    about = "".join(
        f"<div><dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd></div>"
        for key, value in results.about.items()
    )
    yield f"<dl>{about}</dl>"
    yield from _matrix(matrix(results))
    yield from _load_plots(results)
    yield from _mixed_plots(results)
    yield from _overhead_plots(results)
    if every := tables(results):
        yield "<details open><summary>Every number</summary>"
        for table in every:
            yield from _table(table)
        yield "</details>"
    yield "<footer>Written by <code>python -m compat_bench</code>; the rows are in results.json."
    yield "</footer>"


# --- plots ----------------------------------------------------------------------------------------


#: What is drawn of the load: a heading, the value, how it is written.
_SHOWN: Final[tuple[tuple[str, Callable[[LoadRow], float], str], ...]] = (
    ("Tasks a minute (more is better)", lambda row: row.per_minute, "{:.0f}"),
    ("Mean turnaround of a task", lambda row: mean(row.turnarounds_s), "{:.2f} s"),
    (
        "Turnaround that one task in ten exceeds",
        lambda row: quantile(row.turnarounds_s, 0.9),
        "{:.2f} s",
    ),
    ("Mean waiting of an LLM call", lambda row: mean(row.waits_s), "{:.2f} s"),
)


def _load_plots(results: Results) -> Iterator[str]:
    """A row for each measure, on one scale; a column for each framework."""
    if not results.loads:
        return
    yield "<h2>Agents at once</h2>"
    yield (
        "<p class=note>Each agent does one task; they all begin together. Turnaround is the time "
        "from there to the end of the task. Waiting is that of a call until it runs for the first "
        "time.</p>"
    )
    yield _key(NATIVE, KERNEL)
    rows = sorted(results.loads, key=lambda row: (row.agents, row.system == KERNEL))
    for title, value, form in _SHOWN:
        known = [row for row in rows if row.waits_s or "waiting" not in title]
        if not known:
            continue
        most = max(map(value, known))
        yield f"<h3>{title}</h3><div class=plots>"
        for framework in results.frameworks():
            mine = [
                Bar(_agents(row.agents), row.system, value(row), form.format(value(row)))
                for row in known
                if row.framework == framework
            ]
            yield bars(framework, mine, most) if mine else ""
        yield "</div>"


def _mixed_plots(results: Results) -> Iterator[str]:
    if not results.mixed:
        return
    parts = {"each for itself": NATIVE, "one kernel": KERNEL}
    rows = sorted(results.mixed, key=lambda row: (row.framework, row.system == "one kernel"))
    yield "<h2>All frameworks at the same time</h2>"
    yield (
        "<p class=note>Grey: each has a plain server of its own on the same machine. "
        "Blue: all of them share one kernel.</p><div class=plots>"
    )
    yield bars(
        "done after",
        [
            Bar(row.framework, parts[row.system], row.makespan_s, f"{row.makespan_s:.1f} s")
            for row in rows
        ],
    )
    yield bars(
        "mean turnaround",
        [
            Bar(
                row.framework,
                parts[row.system],
                row.mean_turnaround_s,
                f"{row.mean_turnaround_s:.2f} s",
            )
            for row in rows
        ],
    )
    yield "</div>"


def _overhead_plots(results: Results) -> Iterator[str]:
    if not results.overheads:
        return
    order = (ALONE, NATIVE, KERNEL)
    names = [*results.frameworks(), BARE]
    rows = sorted(
        results.overheads, key=lambda row: (names.index(row.framework), order.index(row.system))
    )
    yield "<h2>The cost of a call, without the model</h2>"
    yield (
        "<p class=note>p50 of the smallest call, with a model that costs nothing. Light: the "
        "framework by itself. Grey: natively, over HTTP on this machine. Blue: through the adapter "
        "to the kernel; without a framework, the kernel's own call.</p><div class=plots>"
    )
    yield bars(
        "milliseconds",
        [Bar(row.framework, row.system, row.p50_us, f"{row.p50_us / 1e3:.2f} ms") for row in rows],
    )
    yield "</div>"


def _key(*systems: str) -> str:
    spans = "".join(f"<span><i class={system}></i>{system}</span>" for system in systems)
    return f"<p class=key>{spans}</p>"


# --- tables ---------------------------------------------------------------------------------------


def _matrix(table: Table) -> Iterator[str]:
    if table.rows:
        yield from _head(table, "matrix", level=2)
        for name, *cells in table.rows:
            shaded = "".join(f"<td class={_shade(cell)}>{html.escape(cell)}</td>" for cell in cells)
            yield f"<tr><td>{html.escape(name)}</td>{shaded}</tr>"
        yield "</table></div>"


def _shade(cell: str) -> str:
    """Return the color class of a cell of the matrix."""
    if cell in {NOT_RUN, NOT_OFFERED} or cell.startswith("skipped"):
        return "none"
    if cell.endswith("x"):
        return "good" if float(cell[:-1]) >= 1.0 else "part"
    same, _, both = cell.partition(" of ")
    if same == both:
        return "good"
    return "part" if int(same) else "bad"


def _table(table: Table) -> Iterator[str]:
    yield from _head(table, "plain", level=3)
    for cells in table.rows:
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table></div>"


def _head(table: Table, kind: str, *, level: int) -> Iterator[str]:
    yield f"<h{level}>{html.escape(table.title)}</h{level}>"
    yield f"<p class=note>{html.escape(table.note)}</p><div class=wide><table class={kind}>"
    yield "<tr>" + _headings(table.columns) + "</tr>"


def _headings(columns: Sequence[str]) -> str:
    return "".join(f"<th>{html.escape(name)}</th>" for name in columns)


def _agents(number: int) -> str:
    return f"{number} agent{'' if number == 1 else 's'}"
