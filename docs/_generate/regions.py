"""Generated regions of a page: the lines between two marks, which a person does not edit.

    <!-- generated: config scheduler -->
    ...
    <!-- generated: end -->

In YAML the marks are comments: ``# generated: nav api``. The words after the first one are
arguments of the generator of that name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Generator = Callable[..., str]

_REGION = re.compile(
    r"^(?P<indent> *)(?P<open><!-- |# )generated: (?P<call>(?!end\b)[^\n]+?)(?P<close> -->)?\n"
    r"(?P<body>.*?)"
    r"^ *(?:<!-- |# )generated: end(?: -->)?$",
    re.MULTILINE | re.DOTALL,
)


class UnknownRegion(Exception):
    """A page has a region that no generator writes."""


def refresh(text: str, generators: Mapping[str, Generator]) -> str:
    """Return a page with every region written again."""
    return _REGION.sub(lambda region: _written(region, generators), text)


def regions_in(text: str) -> list[str]:
    """Return what the regions of a page are called, with their arguments."""
    return [region["call"] for region in _REGION.finditer(text)]


def _written(region: re.Match[str], generators: Mapping[str, Generator]) -> str:
    name, *arguments = region["call"].split()
    if name not in generators:
        raise UnknownRegion(f"{region['call']!r}; known: {', '.join(sorted(generators))}")
    close = region["close"] or ""
    indent, mark = region["indent"], region["open"]
    body = generators[name](*arguments).strip("\n")
    lines = "\n".join(f"{indent}{line}".rstrip() for line in body.splitlines())
    gap = "\n" if close else ""  # Markdown wants a line between a comment and a table
    return (
        f"{indent}{mark}generated: {region['call']}{close}\n{gap}{lines}\n{gap}"
        f"{indent}{mark}generated: end{close}"
    )
