"""The ReAct text format (Yao et al., 2022) for frameworks that bring no agent for it.

The prompt is LlamaIndex's in short, which the tiny model was taught; tools stand in it as
LlamaIndex writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from compat_bench.tasks import ToolStub

MAX_STEPS: Final = 8
ANSWER: Final = "Answer:"
#: With LlamaIndex's names for what goes in.
HEADER: Final = """You have access to the following tools:
{tool_desc}
Use this format:
Thought: I need to use a tool.
Action: tool name (one of {tool_names})
Action Input: the input in JSON
Observation: tool response
Thought: I can answer.
Answer: your answer"""

_ACTION: Final = re.compile(r"Action:\s*(\S+)\s*\nAction Input:\s*(\{.*\})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Action:
    """A tool that the model wants."""

    name: str
    arguments: dict[str, Any]


def prompt(stubs: Sequence[ToolStub]) -> str:
    """Build the system prompt that describes the tools."""
    described = "\n".join(
        f"> Tool Name: {stub.name}\nTool Description: {stub.description}\n"
        f"Tool Args: {json.dumps(_schema(stub))}\n"
        for stub in stubs
    )
    return HEADER.format(tool_desc=described, tool_names=", ".join(stub.name for stub in stubs))


def action_in(text: str) -> Action | None:
    """The action that a step ends with; None if it answers."""
    if (found := _ACTION.search(text)) is None:
        return None
    try:
        arguments = json.loads(found[2])
    except ValueError:
        return None
    return Action(found[1], arguments) if isinstance(arguments, dict) else None


def answer_in(text: str) -> str:
    """Return the final answer."""
    return text.rpartition(ANSWER)[2].strip()


def _schema(stub: ToolStub) -> dict[str, Any]:
    """As pydantic and LlamaIndex write it."""
    properties = {
        name: {"title": name.replace("_", " ").title(), "type": kind}
        for name, kind in stub.properties.items()
    }
    return {"properties": properties, "required": list(stub.required), "type": "object"}
