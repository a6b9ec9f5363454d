"""Find and order the items of a graph's store as LangGraph's own stores do.

Pure functions over plain data.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from langgraph.store.base import MatchCondition

from aios_core.errors import InvalidRequest

Namespace = tuple[str, ...]
Vector = Sequence[float]

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def fits(value: Any, wanted: Any) -> bool:
    """Return whether an item has the wanted values, or ones that compare as wanted."""
    if isinstance(wanted, Mapping):
        if any(str(key).startswith("$") for key in wanted):
            return all(_compares(value, name, bound) for name, bound in wanted.items())
        return isinstance(value, Mapping) and all(
            fits(value.get(key), part) for key, part in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(map(fits, value, wanted))
        )
    return bool(value == wanted)


def _compares(value: Any, name: str, bound: Any) -> bool:
    if name not in _OPERATORS:
        raise InvalidRequest(f"filter: got operator {name!r}; allowed: {sorted(_OPERATORS)}")
    if name in ("$eq", "$ne"):
        return _OPERATORS[name](value, bound)
    with suppress(TypeError, ValueError):
        return _OPERATORS[name](float(value), float(bound))
    with suppress(TypeError):
        return value is not None and _OPERATORS[name](value, bound)
    return False


def matches(condition: MatchCondition, namespace: Namespace) -> bool:
    """Return whether a namespace has the prefix or suffix of a condition."""
    path = condition.path
    if len(path) > len(namespace):
        return False
    is_prefix = condition.match_type == "prefix"
    part = namespace[: len(path)] if is_prefix else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def ranked(scores: Mapping[str, float], keys: Sequence[str]) -> list[str]:
    """Return the keys with a score, the best first, then those without. Ties stay in order."""
    scored = sorted((key for key in keys if key in scores), key=lambda key: -scores[key])
    return [*scored, *(key for key in keys if key not in scores)]


def nearness(wanted: Vector, vectors: Sequence[Vector]) -> float:
    """Return the best cosine of some vectors to a wanted one. A vector of zeros scores 0."""
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        return max(_cosine(wanted, vector) for vector in vectors)
    matrix = numpy.asarray(vectors, dtype=float)
    norms = numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(wanted)
    dots = matrix @ numpy.asarray(wanted, dtype=float)
    return float((dots / numpy.where(norms == 0, numpy.inf, norms)).max())


def _cosine(left: Vector, right: Vector) -> float:
    size = math.hypot(*left) * math.hypot(*right)
    return sum(a * b for a, b in zip(left, right, strict=True)) / size if size else 0.0
