"""What a person is asked, what the person answers, and who asks.

An approval is bound to the SHA-256 of exactly what is done (agent, action, resource,
arguments), is good for one request, and has an end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aios_core.checking import MAX_INTEGER, exact_text
from aios_core.permissions import Access
from aios_core.redaction import shown_repr, visible


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A request that waits. Times are seconds since 1970."""

    id: str
    digest: str  # SHA-256 of what would be done, in hex
    pid: int
    agent: str  # its identity
    action: str
    resource: str
    arguments: Mapping[str, Any]
    why: str  # it is asked about
    asked_at: float
    expires_at: float
    labels: tuple[str, ...] = ()  # where what the agent has read comes from
    also: tuple[str, ...] = ()  # what else the request does, in words

    def __str__(self) -> str:
        """All of it in one line, with nothing in it that a terminal would obey."""
        told = canonical(self.arguments) if self.arguments else ""
        parts = [f"{self.agent} (pid {self.pid}): {self.action} {self.resource}", told, *self.also]
        return visible(" ".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """What became of it."""

    is_approved: bool
    by: str = ""  # who said so
    reason: str = ""


class Approver(Protocol):
    """Asks somebody. Called on the kernel's loop, which it never blocks."""

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        """Wait for an answer. A cancelled await takes the question back."""


@dataclass(frozen=True, slots=True)
class FixedApprover:
    """Asks nobody: the answer is known."""

    answer: ApprovalAnswer = field(default_factory=lambda: ApprovalAnswer(True))

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:  # noqa: ARG002
        return self.answer


def digest_of(identity: str, access: Access) -> str:
    """SHA-256, in hex, of who does exactly what."""
    parts = [
        {"action": one.action, "resource": str(one.resource), "arguments": one.arguments}
        for one in (access, *access.also)
    ]
    return hashlib.sha256(canonical({"agent": identity, "does": parts}).encode()).hexdigest()


_MAX_DEPTH: Final = 200  # of what is shown of arguments

#: JSON values alone as such a text.
encoded: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(value: Any) -> str:
    """JSON in which equal values have equal texts, of ASCII alone."""
    return encoded(plain(value))


def plain(value: Any, depth: int = 0) -> Any:
    """JSON values as they are; bytes as their hash, anything else as Python writes it, in short."""
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _plain_items(value, depth + 1) if depth < _MAX_DEPTH else "..."
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, str):
        return exact_text(value)
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return hex(value)
    return value if value is None or isinstance(value, bool | int | float) else shown_repr(value)


def _plain_items(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {_key(key): plain(item, depth) for key, item in value.items()}
    items = [plain(item, depth) for item in value]
    return items if isinstance(value, list | tuple) else sorted(items, key=shown_repr)


def _key(key: object) -> str:
    return exact_text(key) if isinstance(key, str) else shown_repr(key)
