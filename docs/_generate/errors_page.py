"""`reference/errors.md`: the tree of errors, with attributes and what to do."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator

from text import code, paragraph_of, table

from aios_core import errors


def error_tree() -> str:
    """Return the tree of errors as indented text."""
    lines = [f"{'    ' * depth}{one.__name__}" for one, depth in _tree(errors.KernelError)]
    return "\n".join(["```text", *lines, "```"])


def error_table(*names: str) -> str:
    """Return a table of some errors with all that are below them."""
    rows = [
        (code(one.__name__), paragraph_of(one), ", ".join(map(code, _attributes(one))))
        for name in names
        for one, _ in _tree(getattr(errors, name))
    ]
    return table(("Error", "Meaning", "Attributes"), rows)


def all_errors() -> frozenset[str]:
    """Return the names of all errors of the kernel."""
    return frozenset(one.__name__ for one, _ in _tree(errors.KernelError))


def _tree(root: type, depth: int = 0) -> Iterator[tuple[type, int]]:
    """Yield every public error once, below its first base."""
    yield root, depth
    below: list[type] = root.__subclasses__()
    for one in below:
        if one.__bases__[0] is root and one.__name__ in errors.__all__:
            yield from _tree(one, depth + 1)


def _attributes(error: type) -> list[str]:
    """Return what the constructors of an error, and of its bases, set."""
    found: list[str] = []
    for one in inspect.getmro(error):
        if not issubclass(one, errors.KernelError) or "__init__" not in vars(one):
            continue
        found += [name for name in _assigned(one) if name not in found]
    return found


def _assigned(error: type) -> Iterator[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(error)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
            if is_own and not node.attr.startswith("_"):
                yield node.attr
