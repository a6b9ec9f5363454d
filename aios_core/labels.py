"""Labels, which mark where data came from and follow it through memory, files and tools.

A manager answers with a `Labeled` value; the kernel adds its labels to the agent that
reads it, and all that this agent writes is stored with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Labeled:
    """An answer with the labels of the data in it.

    The kernel unwraps it for the caller and adds the labels to those of the agent.
    Everything that the agent writes from then on is stored with them, so no label is lost
    by writing and reading back.
    """

    value: Any
    labels: frozenset[str]


def with_labels(value: Any, labels: frozenset[str]) -> Any:
    """Return a value with labels, or the value alone if there are none."""
    return Labeled(value, labels) if labels else value


def with_all_labels(values: Sequence[HasLabels]) -> Any:
    """Return a tuple of values with the labels of all of them and of their names."""
    return with_labels(tuple(values), labels_of_all(values))


def labels_of_all(values: Iterable[HasLabels]) -> frozenset[str]:
    """Return the labels of several values together, those of their names included."""
    return frozenset[str]().union(*(_all_labels(value) for value in values))


def _all_labels(value: HasLabels) -> frozenset[str]:
    names: frozenset[str] = getattr(value, "name_labels", frozenset())
    return value.labels | names


class HasLabels(Protocol):
    """A value that managers return to agents, with the labels of its origin.

    If its name may have another origin than its content, `name_labels` holds the name's labels.
    """

    @property
    def labels(self) -> frozenset[str]:
        """The labels of the agents that wrote it."""


def labels_to_text(labels: Iterable[str]) -> str:
    """Encode labels for the database; "" if there are none."""
    return json.dumps(sorted(labels)) if labels else ""


def labels_from_text(text: str) -> frozenset[str]:
    """Decode labels that `labels_to_text` encoded."""
    return frozenset(json.loads(text)) if text else frozenset()


def labels_from_rows(rows: Iterable[Iterable[Any]]) -> frozenset[str]:
    """Return the union of the labels in all columns of all rows."""
    texts = {str(text) for row in rows for text in row if text}
    return frozenset[str]().union(*map(labels_from_text, texts))
