"""What the agents are asked: tasks as data, the same for every framework and system.

They are dialogues of the tiny model's evaluation (`models.tiny.data`), of words
that its training never saw, taken apart into what the user says, the tools with
their true results, and what a right agent does and says. A model of another kind
is asked the same; what counts as right then is the calls, not the wording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from models.tiny.data import CASES, evaluation_dialogue
from models.tiny.data.dialogue import Dialogue, Turn
from models.tiny.data.dialogue import Tool as DialogueTool

#: What there is to do, and the evaluation case that it is made of.
KINDS: Final[Mapping[str, str]] = {
    "single tool": "ten tools offered",
    "chain": "chain of 2",
    "parallel tools": "side by side, one tool",
    "memory across turns": "several requests",
    "ReAct text": "six tools of the first trial",
    "handover": "handing over",
    "code execution": "execute(language, code)",
    "plain talk": "plain talk",
}


@dataclass(frozen=True, slots=True)
class SeenCall:
    """One call of a tool, as an agent made it or should make it."""

    name: str
    arguments: Mapping[str, Any]

    def key(self) -> tuple[str, str]:
        """Equal for calls that do the same."""
        return self.name, json.dumps(self.arguments, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ToolStub:
    """A tool whose results were decided beforehand."""

    name: str
    description: str
    properties: Mapping[str, str]  # name -> JSON type
    required: tuple[str, ...]
    results: Mapping[str, str] = field(default_factory=dict)  # by the arguments as JSON

    def run(self, arguments: Mapping[str, Any]) -> str:
        """The true result, or an error's text for arguments that nobody expected."""
        known = self.results.get(SeenCall(self.name, arguments).key()[1])
        return known if known is not None else "error: not found"

    def schema(self) -> dict[str, Any]:
        """Of its arguments, as JSON schema."""
        return {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in self.properties.items()},
            "required": list(self.required),
        }


@dataclass(frozen=True, slots=True)
class Task:
    """One conversation to be had, and how a right one goes."""

    id: str
    kind: str
    says: tuple[str, ...]  # the user, one turn after the other
    tools: tuple[ToolStub, ...]
    calls: tuple[SeenCall, ...]  # in order; those side by side in any
    answers: tuple[str, ...]  # to each turn
    system: str = ""


@dataclass(slots=True)
class Outcome:
    """What an agent did with a task."""

    answers: list[str] = field(default_factory=list)
    calls: list[SeenCall] = field(default_factory=list)

    def is_right(self, task: Task) -> bool:
        """Whether the calls are those that are right, and the last answer too."""
        return self.has_right_calls(task) and bool(
            self.answers and _plain(self.answers[-1]) == _plain(task.answers[-1])
        )

    def has_right_calls(self, task: Task) -> bool:
        """Whether exactly the right calls were made."""
        made = sorted(call.key() for call in self.calls)
        return made == sorted(call.key() for call in task.calls)


def make_tasks(kinds: Sequence[str], num_each: int, seed: int = 1) -> list[Task]:
    """As many tasks of every kind, always the same for a seed. Raises `KeyError`."""
    return [
        _task(kind, evaluation_dialogue(KINDS[kind], f"compat/{seed}/{number}"), number)
        for kind in kinds
        for number in range(num_each)
    ]


def _task(kind: str, dialogue: Dialogue, number: int) -> Task:
    results: dict[str, dict[str, str]] = {tool.name: {} for tool in dialogue.tools}
    said, answers, made = [], [], []
    waiting: list[SeenCall] = []
    for turn in dialogue.turns:
        if turn.role == "user":
            said.append(turn.text)
        elif turn.role == "tool":
            call = waiting.pop(0)
            results[call.name][call.key()[1]] = turn.text
        elif turn.calls:
            waiting = _calls(turn)
            made += waiting.copy()
        else:
            answers.append(turn.text)
    return Task(
        f"{kind} {number + 1}",
        kind,
        tuple(said),
        tuple(_stub(tool, results[tool.name]) for tool in dialogue.tools),
        tuple(made),
        tuple(answers),
        dialogue.system,
    )


def _calls(turn: Turn) -> list[SeenCall]:
    return [SeenCall(call.name, dict(call.arguments)) for call in turn.calls]


def _stub(tool: DialogueTool, results: Mapping[str, str]) -> ToolStub:
    return ToolStub(
        tool.name,
        tool.description,
        {param.name: param.type for param in tool.params},
        tuple(param.name for param in tool.params if param.required),
        dict(results),
    )


def _plain(text: str) -> str:
    return " ".join(text.split())


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise `ValueError` for a kind that is none, naming those that are."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"no kind of task {kind!r}; have {sorted(KINDS)}")
    if missing := [case for case in KINDS.values() if case not in CASES]:
        raise ValueError(f"models.tiny.data has no cases {missing}")
