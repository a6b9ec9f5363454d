"""Scripted answers of a model for Open Interpreter: text, and code to run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aios_core import ToolCall


def code(text: str, language: str = "python") -> ToolCall:
    """A call of Open Interpreter's one tool."""
    return ToolCall("call_1", "execute", json.dumps({"language": language, "code": text}))


def coder(text: str, language: str = "python") -> Callable[[Any], Any]:
    """Return a model that runs one piece of code, and then answers with its output."""

    def answer(request: Any) -> Any:
        last = request.messages[-1]
        if last.role == "tool":
            return f"It said: {last.content.strip()}"
        return [code(text, language)]

    return answer


def told(messages: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Role, type and content of an interpreter's messages."""
    return [(one["role"], one["type"], one["content"].strip()) for one in messages]
