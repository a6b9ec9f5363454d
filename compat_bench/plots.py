"""Plot grouped bars as SVG, with their values next to them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_LEFT: Final = 92  # for the labels
_WIDTH: Final = 200  # of the longest bar
_RIGHT: Final = 88  # for the values
_HEIGHT: Final = 15  # of a bar
_STEP: Final = 18
_GAP: Final = 10  # between groups


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. `part` is its series, which decides its color in the style sheet."""

    label: str
    part: str
    value: float
    text: str


def bars(title: str, rows: Sequence[Bar], most: float | None = None) -> str:
    """Horizontal bars; those of one label stand together.

    Args:
        title: stands above.
        rows: the bars, in their order.
        most: what the longest bar stands for; None: the largest value.
    """
    scale = most or max((row.value for row in rows), default=0.0) or 1.0
    parts, y, label = [], 4, ""
    for row in rows:
        if row.label != label:
            y += _GAP if label else 0
            label = row.label
            parts.append(f"<text class=label x=0 y={y + 12}>{html.escape(label)}</text>")
        length = max(1.5, _WIDTH * min(1.0, row.value / scale))
        parts.append(
            f"<rect class={row.part} x={_LEFT} y={y} width={length:.1f} height={_HEIGHT} rx=2>"
            f"<title>{html.escape(row.part)}: {html.escape(row.text)}</title></rect>"
            f"<text x={_LEFT + length + 6:.1f} y={y + 12}>{html.escape(row.text)}</text>"
        )
        y += _STEP
    size = f"0 0 {_LEFT + _WIDTH + _RIGHT} {y + 4}"
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f"<svg viewBox='{size}' role=img aria-label='{html.escape(title)}'>"
        f"{''.join(parts)}</svg></figure>"
    )
