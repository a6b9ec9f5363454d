"""The tasks for the agents, as data, equal for every framework and system.

Each is a conversation of words that the tiny model's training never saw (`task_builder`), taken
apart into the user's messages, the tools with their true results, and the calls and answers
of a right agent. Another model gets equal tasks; then the calls count as right, not the
wording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from compat_bench.task_builder import MAKERS, TaskDraft, draft
from models.tiny.data.dialogue import Tool as DialogueTool
from models.tiny.data.dialogue import Turn

KINDS: Final[Sequence[str]] = tuple(MAKERS)
CODE_EXECUTION: Final = "code execution"
RETRIEVAL: Final = "retrieval"
REACT: Final = "ReAct text"
TOOL_SYSCALL: Final = "tool as a syscall"
PARALLEL: Final = "parallel tools"
PLAIN_TALK: Final = "plain talk"
STREAMING: Final = "streaming"


class Backing(StrEnum):
    """The origin of a tool's results."""

    STUB = "stub"  # they were decided beforehand
    CODE = "code"  # the code that is its argument runs
    DOCUMENTS = "documents"  # the documents of the task are searched


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
    """A tool. Its results were decided beforehand, unless it is backed by something."""

    name: str
    description: str
    properties: Mapping[str, str]  # name -> JSON type
    required: tuple[str, ...]
    results: Mapping[str, str] = field(default_factory=dict)  # by the arguments as JSON
    backing: Backing = Backing.STUB

    def run(self, arguments: Mapping[str, Any]) -> str:
        """Return the true result, or an error's text for unexpected arguments."""
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
class Member:
    """One agent of a team."""

    name: str
    handover: ToolStub  # by which the first agent hands over to it
    tools: tuple[ToolStub, ...]


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
    documents: tuple[str, ...] = ()  # that a search finds something in
    members: tuple[Member, ...] = ()  # of a team: a turn ends when one of them takes over


@dataclass(slots=True)
class Outcome:
    """The answers and calls of an agent for one task."""

    answers: list[str] = field(default_factory=list)
    calls: list[SeenCall] = field(default_factory=list)

    def is_right(self, task: Task) -> bool:
        """Return whether the calls are those that are right, and the last answer too."""
        return self.has_right_calls(task) and bool(
            self.answers and _plain(self.answers[-1]) == _plain(task.answers[-1])
        )

    def has_right_calls(self, task: Task) -> bool:
        """Return whether exactly the right calls were made."""
        made = sorted(call.key() for call in self.calls)
        return made == sorted(call.key() for call in task.calls)


def make_tasks(kinds: Sequence[str], num_each: int, seed: int = 1) -> list[Task]:
    """As many tasks of every kind, always the same for a seed. Raises `KeyError`."""
    return [
        _task(kind, draft(kind, seed, number), number)
        for kind in kinds
        for number in range(num_each)
    ]


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise `ValueError` for a kind that is none, naming those that are."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"no kind of task {kind!r}; have {sorted(KINDS)}")


def _task(kind: str, drawn: TaskDraft, number: int) -> Task:
    dialogue = drawn.dialogue
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

    def stubs(tools: Sequence[DialogueTool]) -> tuple[ToolStub, ...]:
        return tuple(_stub(kind, tool, results.get(tool.name, {})) for tool in tools)

    members = [
        Member(member.name, stubs([member.handover])[0], stubs(member.tools))
        for member in drawn.members
    ]
    return Task(
        f"{kind} {number + 1}",
        kind,
        tuple(said),
        () if members else stubs(dialogue.tools),
        tuple(made),
        tuple(answers),
        dialogue.system,
        drawn.documents,
        tuple(members),
    )


def _calls(turn: Turn) -> list[SeenCall]:
    return [SeenCall(call.name, dict(call.arguments)) for call in turn.calls]


def _stub(kind: str, tool: DialogueTool, results: Mapping[str, str]) -> ToolStub:
    backing = {(CODE_EXECUTION, "execute"): Backing.CODE, (RETRIEVAL, "search"): Backing.DOCUMENTS}
    return ToolStub(
        tool.name,
        tool.description,
        {param.name: param.type for param in tool.params},
        tuple(param.name for param in tool.params if param.required),
        dict(results),
        backing.get((kind, tool.name), Backing.STUB),
    )


def _plain(text: str) -> str:
    return " ".join(text.split())
