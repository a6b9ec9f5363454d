"""Texts that labelled agents were given or have said, so that whoever brings one along is marked.

The kernel does not see the variables of a program, but it sees the same text again: in the
prompt of another agent, among the arguments of a tool, in what is written to memory. A
framework's agents pass each other's messages on word for word.

Kept are hashes of whole texts, the last `MAX_TEXTS` of them, in RAM. Not seen are a text
that was changed or is a part of another, one that is shorter than `MIN_CHARS` (too many of
these are equal by chance), and one from before the kernel began. Belongs to the kernel's loop.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, Final

from aios_core.manager import Labelled
from aios_core.process import AgentProcess

MIN_CHARS: Final = 24
MAX_TEXTS: Final = 50_000
_MAX_BYTES: Final = 1 << 16  # of a file that is taken for a text: decoding takes the loop's time
_MAX_DEPTH: Final = 6
_CONTENTS: Final = ("data", "value", "content", "text")  # of what managers answer with


class LabelledTexts:
    """Hashes of texts, each with the labels of those who said or read it."""

    def __init__(self) -> None:
        self._labels: OrderedDict[int, frozenset[str]] = OrderedDict()  # the latest last

    def __repr__(self) -> str:
        return f"<LabelledTexts: {len(self)} texts>"

    def __len__(self) -> int:
        return len(self._labels)

    def remember(self, value: object, labels: AbstractSet[str]) -> None:
        """Keep the texts in a value that an agent with these labels was given, or has said."""
        for text in texts_in(value) if labels else ():
            if (key := _key(text)) is not None:
                self._labels[key] = self._labels.pop(key, frozenset()) | labels
        while len(self._labels) > MAX_TEXTS:
            self._labels.popitem(last=False)

    def remember_answer(self, answer: Labelled) -> None:
        """Keep the contents in an answer, each with its own labels; names are not contents."""
        if isinstance(answer.value, tuple):
            for item in answer.value:
                self._remember_content(item, answer.labels)
        else:
            self._remember_content(answer.value, answer.labels)

    def mark(self, process: AgentProcess, value: object) -> None:
        """An agent brings a value along: it takes the labels of the texts in it."""
        if self._labels:
            known = (self._labels.get(key) for text in texts_in(value) if (key := _key(text)))
            process.take_labels(frozenset[str]().union(*filter(None, known)))

    def _remember_content(self, item: object, labels: frozenset[str]) -> None:
        if not is_dataclass(item) or isinstance(item, type):
            self.remember(forms_of(item), labels)
            return
        own = getattr(item, "labels", labels)
        for name in _CONTENTS:
            self.remember(getattr(item, name, None), own)


def texts_in(value: object, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """The texts in a message or a request; of bytes those that may be one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        if len(value) <= _MAX_BYTES:
            yield value.decode("utf-8", "replace")
    elif depth:
        for item in _items_of(value):
            yield from texts_in(item, depth - 1)


def forms_of(result: object) -> tuple[Any, ...]:
    """A tool's result, and the texts as which frameworks show it to a model."""
    if isinstance(result, str | bytes):
        return (result,)
    return (json.dumps(result, ensure_ascii=False, default=str), str(result), result)


def _items_of(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        if value and not isinstance(value[0], int | float):  # a vector has no texts
            yield from value
    elif is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, one.name) for one in fields(value) if one.init)


def _key(text: str) -> int | None:
    text = text.strip()
    return hash(text) if len(text) >= MIN_CHARS else None
