"""Assign the fragments of a stream to tool calls.

By the format, fragments of one call share an index. Some servers give all calls of an
answer index 0 and distinguish them by id, repeat id and name in every fragment, omit the
index, or omit the id. Two rules cover all of them: a new id starts a new call, and so
does a name after the arguments of the previous call are complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aios_core.messages import ToolCallDelta

_KNOWN: Final = frozenset({"index", "id", "type", "function", "custom"})


@dataclass(slots=True)
class _Open:
    """A tool call that has started."""

    index: int  # the kernel's number of the call
    id: str  # the server's; "" if it sent none
    server_index: int | None
    has_name: bool
    arguments: str = ""


class CallFragments:
    """The tool calls of one answer, numbered in order of their start.

    `key` is the prefix of the ids of calls for which the server sends none.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._calls: list[_Open] = []

    def read(self, part: Any) -> ToolCallDelta:
        """Read a fragment. Raises `TypeError` or `AttributeError` if it is malformed."""
        if not isinstance(part, Mapping):
            raise TypeError(f"a tool call expected, got {part!r:.100}")
        body = _body(part)
        name, arguments = _text(body.get("name")), _arguments(body)
        index, id_ = part.get("index"), _text(part.get("id"))
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        call = self._find(index, id_, name, arguments)
        is_first = call is None
        if call is None:
            call = _Open(len(self._calls), id_, index, bool(name))
            self._calls.append(call)
        is_named_now = bool(name) and (is_first or not call.has_name)
        call.has_name = call.has_name or bool(name)
        call.arguments += arguments
        return ToolCallDelta(
            index=call.index,
            id=(id_ or f"{self._key}_{call.index}") if is_first else None,
            name=name if is_named_now else None,
            arguments=arguments,
            kind="custom" if part.get("type") == "custom" or "custom" in part else "function",
            extra={k: v for k, v in part.items() if k not in _KNOWN and v is not None},
        )

    def _find(self, index: int | None, id_: str, name: str, arguments: str) -> _Open | None:
        """Return the call that a fragment continues; None if it starts one."""
        if index is None and not id_:
            return self._calls[-1] if self._calls and not name else None
        candidates = [call for call in self._calls if index in (None, call.server_index)]
        if id_ and any(call.id for call in candidates):
            candidates = [call for call in candidates if call.id == id_]
        if not candidates:
            return None
        latest = candidates[-1]
        if name and arguments and latest.has_name and _is_complete(latest.arguments):
            return None
        return latest


def _body(part: Mapping[str, Any]) -> Mapping[str, Any]:
    body = part.get("function")
    body = part.get("custom") if body is None else body
    if body is None:
        return {}
    if not isinstance(body, Mapping):
        raise TypeError(f"a function expected, got {body!r:.100}")
    return body


def _arguments(body: Mapping[str, Any]) -> str:
    """Return arguments as text; some servers send the object itself."""
    value = body.get("arguments", body.get("input"))
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _is_complete(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r:.100}")
    return value
