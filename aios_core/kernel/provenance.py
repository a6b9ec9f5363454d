"""Recognize texts of labeled agents, so that an agent that uses one takes its labels.

The kernel does not see the variables of a program, but it sees the same text again: in the
prompt of another agent, among the arguments of a tool, in a write to memory. A framework's
agents pass each other's messages on word for word.

Hashes of whole texts are kept in RAM, the last `MAX_TEXTS` of them. A text that was changed,
is a part of another, or is older than the kernel is not recognized. Texts shorter than
`MIN_CHARS` are too often equal by chance: one counts only as a message with the name of its
agent, as in a team of agents. Belongs to the kernel's loop.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, Final

from aios_core.labels import Labeled
from aios_core.messages import Message
from aios_core.process import AgentProcess

MIN_CHARS: Final = 24
MAX_TEXTS: Final = 50_000
_MAX_BYTES: Final = 1 << 16  # of a file treated as text, since decoding takes the loop's time
_MAX_DEPTH: Final = 6
_MAX_SETS: Final = 1_000
_CONTENTS: Final = ("data", "value", "content", "text")  # attributes of managers' answers


class LabelledTexts:
    """Hashes of texts, each with the labels of the agents that wrote or read it."""

    def __init__(self) -> None:
        self.labels: OrderedDict[int, frozenset[str]] = OrderedDict()  # by text, the latest last
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # one object for all texts with it

    def __repr__(self) -> str:
        return f"<LabelledTexts: {len(self)} texts>"

    def __len__(self) -> int:
        return len(self.labels)

    def remember(self, value: object, labels: AbstractSet[str], agent: str) -> None:
        """Keep the texts in a value that an agent of that name has read or written."""
        for text in texts_in(value) if labels else ():
            for key in (_key(text), _key_of_message(agent, text)):
                if key is not None:
                    self.labels[key] = self._shared(self.labels.pop(key, frozenset()) | labels)
        while len(self.labels) > MAX_TEXTS:
            self.labels.popitem(last=False)

    def _shared(self, labels: frozenset[str]) -> frozenset[str]:
        """Return equal labels as one object for all texts that have them."""
        if len(self._sets) >= _MAX_SETS:
            self._sets.clear()
        return self._sets.setdefault(labels, labels)

    def remember_answer(self, answer: Labeled, agent: str) -> None:
        """Keep the contents in an answer, each with its own labels; names are not contents."""
        items = answer.value if isinstance(answer.value, tuple) else (answer.value,)
        for item in items:
            if not is_dataclass(item) or isinstance(item, type):
                self.remember(forms_of(item), answer.labels, agent)
                continue
            own = getattr(item, "labels", answer.labels)
            for name in _CONTENTS:
                self.remember(getattr(item, name, None), own, agent)

    def mark(self, process: AgentProcess, value: object) -> None:
        """Add the labels of the texts in a value to the agent that uses it."""
        if self.labels:
            self._take(process, map(_key, texts_in(value)))

    def mark_prompt(self, process: AgentProcess, messages: Sequence[Message]) -> None:
        """Add the labels of the texts in a prompt to the agent that sends it."""
        if self.labels:
            self.mark(process, messages)
            named = (one for one in messages if one.name and one.role != "tool")
            self._take(process, (_key_of_message(one.name or "", one.content) for one in named))

    def _take(self, process: AgentProcess, keys: Iterable[int | None]) -> None:
        known = (self.labels.get(key) for key in keys if key is not None)
        process.take_labels(frozenset[str]().union(*filter(None, known)))


def texts_in(value: object, depth: int = _MAX_DEPTH) -> Iterator[str]:
    """Yield the texts in a message or a request; short bytes are decoded."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        if len(value) <= _MAX_BYTES:
            yield value.decode("utf-8", "replace")
    elif depth:
        for item in _items_of(value):
            yield from texts_in(item, depth - 1)


def forms_of(result: object) -> tuple[Any, ...]:
    """Return a tool's result, and the texts that frameworks make of it for a model."""
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


def _key_of_message(name: str, text: str) -> int | None:
    """Return the key of a short text as a message of an agent."""
    text = text.strip()
    return hash((name, text)) if 0 < len(text) < MIN_CHARS else None
