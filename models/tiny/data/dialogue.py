"""Dialogues, and the text that the chat template makes of them.

`render` writes by hand what the template writes, since it is called a hundred
thousand times; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

END: Final = "<|end|>"
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
TOOL: Final = "<|tool|>"
CALL: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a tool."""

    name: str
    type: str = "string"  # as in JSON schema
    required: bool = True


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that is offered."""

    name: str
    description: str
    params: tuple[Param, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """In the form of the OpenAI API."""
        parameters = {
            "type": "object",
            "properties": {param.name: {"type": param.type} for param in self.params},
            "required": [param.name for param in self.params if param.required],
        }
        about = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": about}

    def line(self) -> str:
        """Render the tool as the model sees it, description first: see the model card."""
        params = ", ".join(
            param.name
            + ("" if param.required else "?")
            + ("" if param.type == "string" else f": {param.type}")
            for param in self.params
        )
        return f"{self.description} -> {self.name}({params})\n"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        name = json.dumps(self.name, ensure_ascii=False)
        arguments = json.dumps(self.arguments, ensure_ascii=False)
        return f'{CALL}{{"name": {name}, "arguments": {arguments}}}{CALL_END}'


@dataclass(frozen=True, slots=True)
class Turn:
    """A message. `learnt`: whether the model is trained to generate it."""

    role: str
    text: str = ""
    calls: tuple[Call, ...] = ()
    learnt: bool = True

    def body(self) -> str:
        return self.text + "".join(call.text() for call in self.calls)

    def to_dict(self) -> dict[str, Any]:
        """In the form of the OpenAI API."""
        out: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.calls:
            out["tool_calls"] = [
                {
                    "id": f"call_{index}",
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments, ensure_ascii=False),
                    },
                }
                for index, call in enumerate(self.calls)
            ]
        return out


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A whole dialogue. The last turn is the assistant's."""

    family: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    system: str = ""
    schema: Mapping[str, Any] | None = None  # of an answer that is JSON

    def targets(self) -> list[int]:
        """Return the positions of the turns that the model has to generate."""
        return [
            index
            for index, turn in enumerate(self.turns)
            if turn.role == "assistant" and turn.learnt
        ]

    def messages(self, until: int | None = None) -> list[dict[str, Any]]:
        """The first `until` turns (None: all), after the system message, as the API has them."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return head + [turn.to_dict() for turn in self.turns[:until]]


def user(text: str) -> Turn:
    return Turn("user", text)


def says(text: str) -> Turn:
    return Turn("assistant", text)


def calls(*those: Call) -> Turn:
    return Turn("assistant", calls=those)


def result(text: str) -> Turn:
    return Turn("tool", text)


def render_head(system: str, tools: Iterable[Tool]) -> str:
    lines = "".join(tool.line() for tool in tools)
    if not (system or lines):
        return ""
    return (
        SYSTEM + system + ("\n" if system and lines else "") + (lines and f"Tools:\n{lines}") + END
    )


def render(dialogue: Dialogue) -> str:
    """The dialogue as the chat template writes it."""
    turns = "".join(f"<|{turn.role}|>{turn.body()}{END}" for turn in dialogue.turns)
    return render_head(dialogue.system, dialogue.tools) + turns
