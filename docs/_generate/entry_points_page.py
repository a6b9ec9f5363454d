"""`reference/entry-points.md`: the groups by which packages add to AIOS."""

from __future__ import annotations

import ast
from pathlib import Path

from text import code, table

ROOT = Path(__file__).parents[2]

# group -> what an entry point names, and what it adds
_MEANING = {
    "aios.commands": (
        "a function of the command's arguments that returns the exit status",
        "A command: `aios NAME`.",
    ),
    "aios.demo_agents": (
        "a function that returns the agents of a framework for the demo",
        "Agents in the last part of `aios demo`.",
    ),
    "aios.launchers": (
        "a launcher, with `install(mode)` and `uninstall()`",
        "A framework: its LLM classes run on the kernel under `aios run` and `install()`.",
    ),
    "aios.plugins": (
        "a module, or an object, with an `aios_tools` hook",
        "Tools, unless `tools.plugins` leaves them out.",
    ),
    "aios.cores": (
        "a class of cores, or a factory of them",
        'A kind of core: `[[cores]] kind = "NAME"`.',
    ),
    "aios.policies": (
        "a scheduling policy: a subclass of `Policy`",
        'A scheduling policy: `[scheduler] policy = "NAME"`.',
    ),
}


def entry_point_groups() -> str:
    """Return a table of the groups that the code reads."""
    read = groups_in_code()
    if unknown := read - _MEANING.keys():
        raise AssertionError(f"docs/_generate/entry_points_page.py lacks {sorted(unknown)}")
    rows = [(code(group), *_MEANING[group]) for group in sorted(read)]
    return table(("Group", "An entry point names", "It adds"), rows)


def groups_in_code() -> frozenset[str]:
    """Return every text in the packages that is the name of a group of entry points."""
    found: set[str] = set()
    for folder in ("aios_core", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            if "tests" not in path.parts:
                found |= _group_names(path)
    return frozenset(found)


def _group_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {text for text in texts if text in _MEANING}
