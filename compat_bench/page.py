"""One self-contained HTML page of the results: tables and plots, no script, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from compat_bench.records import KERNEL, NATIVE, Results, mean, quantile
from compat_bench.tables import Table, tables

_COLORS: Final = {NATIVE: "#9aa4b2", KERNEL: "#2563eb"}
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 1080px; margin: 2.5rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.4rem; }
p.note { color: #6b7280; margin: .2rem 0 .8rem; } p.warn { color: #b45309; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid #e5e7eb; }
th { font-weight: 600; color: #374151; border-bottom: 2px solid #9ca3af; }
th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; }
.key span { display: inline-block; width: .8em; height: .8em; border-radius: 2px;
  margin: 0 .35em 0 1em; }
svg text { font: 12px system-ui, sans-serif; fill: #4b5563; }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a plot."""

    label: str
    system: str
    value: float
    text: str


def page(results: Results) -> str:
    """The whole page."""
    return "\n".join(_page(results))


def _page(results: Results) -> Iterator[str]:
    yield "<!doctype html><html lang=en><meta charset=utf-8>"
    yield "<meta name=viewport content='width=device-width,initial-scale=1'>"
    yield f"<title>AIOS: compatibility benchmark</title><style>{_STYLE}</style>"
    yield "<h1>The same agents, natively and on the kernel</h1>"
    about = "; ".join(f"{key}: {value}" for key, value in results.about.items())
    yield f"<p class=note>{html.escape(about)}</p>"
    if not results.is_complete:
        yield "<p class=warn>Interrupted: this is what was complete.</p>"
    for name, why in results.skipped.items():
        yield f"<p class=warn>{html.escape(name)} was skipped: {html.escape(why)}</p>"
    plots = list(_plots(results))
    if plots:
        yield "<p class=key>" + "".join(
            f"<span style='background:{color}'></span>{system}" for system, color in _COLORS.items()
        )
        yield "<div class=plots>" + "".join(plots) + "</div>"
    for table in tables(results):
        yield from _table(table)


def _plots(results: Results) -> Iterator[str]:
    for framework in results.frameworks():
        rows = sorted(
            (row for row in results.loads if row.framework == framework),
            key=lambda row: (row.agents, row.system == KERNEL),
        )
        if rows:
            yield _bars(
                f"{framework}: tasks a minute",
                [
                    Bar(_agents(row.agents), row.system, row.per_minute, f"{row.per_minute:.0f}")
                    for row in rows
                ],
            )
            yield _bars(
                f"{framework}: turnaround, mean (p90)",
                [
                    Bar(
                        _agents(row.agents),
                        row.system,
                        mean(row.turnarounds_s),
                        f"{mean(row.turnarounds_s):.1f} s "
                        f"({quantile(row.turnarounds_s, 0.9):.1f} s)",
                    )
                    for row in rows
                ],
            )


def _bars(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars; those of one label stand together."""
    most = max((bar.value for bar in bars), default=0.0) or 1.0
    left, width, height = 80, 190, 18
    parts, y, label = [], 4, ""
    for bar in bars:
        if bar.label != label:
            y += 8 if label else 0
            label = bar.label
            parts.append(f"<text x=0 y={y + 13}>{html.escape(label)}</text>")
        length = max(1.0, width * bar.value / most)
        color = _COLORS.get(bar.system, "#9aa4b2")
        parts.append(
            f"<rect x={left} y={y} width={length:.1f} height={height - 3} rx=2 fill='{color}'/>"
            f"<text x={left + length + 6:.1f} y={y + 12}>{html.escape(bar.text)}</text>"
        )
        y += height
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f"<svg viewBox='0 0 380 {y + 4}' role=img aria-label='{html.escape(title)}'>"
        f"{''.join(parts)}</svg></figure>"
    )


def _table(table: Table) -> Iterator[str]:
    yield f"<h2>{html.escape(table.title)}</h2><p class=note>{html.escape(table.note)}</p><table>"
    yield "<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in table.columns) + "</tr>"
    for cells in table.rows:
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"


def _agents(number: int) -> str:
    return f"{number} agent{'' if number == 1 else 's'}"
