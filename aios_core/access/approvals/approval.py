"""Approval requests, their answers, and the contract of an approver.

An approval is bound to the SHA-256 of exactly what is done (agent, action, resource,
arguments). It is valid for one request, and expires.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aios_core.permissions import Access
from aios_core.redaction import shown_repr, visible
from aios_core.untrusted.arguments import MAX_INTEGER, exact_text


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A request that waits for a person's approval. Times are seconds since 1970."""

    id: str
    digest: str  # SHA-256 of what would be done, in hex
    pid: int
    agent: str  # its identity
    action: str
    resource: str
    arguments: Mapping[str, Any]
    why: str  # an approval is needed
    asked_at: float
    expires_at: float
    labels: tuple[str, ...] = ()  # of the data that the agent has read
    also: tuple[str, ...] = ()  # the other actions of the request, as text

    def __str__(self) -> str:
        """Show the request in one line, with control characters written out."""
        given = canonical(self.arguments) if self.arguments else ""
        parts = [f"{self.agent} (pid {self.pid}): {self.action} {self.resource}", given, *self.also]
        return visible(" ".join(part for part in parts if part))


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """The answer to an approval request."""

    is_approved: bool
    by: str = ""  # who answered
    reason: str = ""


class Approver(Protocol):
    """Asks a person for approvals. Called on the kernel's loop, which it must not block."""

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        """Wait for an answer. Cancelling the await withdraws the request."""


@dataclass(frozen=True, slots=True)
class FixedApprover:
    """An approver that always gives one answer, without asking."""

    answer: ApprovalAnswer = field(default_factory=lambda: ApprovalAnswer(True))

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:  # noqa: ARG002
        return self.answer


def digest_of(identity: str, access: Access) -> str:
    """Hash who does exactly what; SHA-256 in hex."""
    parts = [
        {"action": one.action, "resource": str(one.resource), "arguments": one.arguments}
        for one in (access, *access.also)
    ]
    return hashlib.sha256(canonical({"agent": identity, "does": parts}).encode()).hexdigest()


_MAX_DEPTH: Final = 200  # of nested arguments that are shown

#: Encodes plain JSON values; `canonical` takes any value.
encoded: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def canonical(value: Any) -> str:
    """Encode a value as ASCII JSON, so that equal values give equal texts."""
    return encoded(to_plain_json(value))


def to_plain_json(value: Any, depth: int = 0) -> Any:
    """Convert to JSON values: bytes to their hash, anything else to a short `repr`."""
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
        return {_key(key): to_plain_json(item, depth) for key, item in value.items()}
    items = [to_plain_json(item, depth) for item in value]
    return items if isinstance(value, list | tuple) else sorted(items, key=shown_repr)


def _key(key: object) -> str:
    return exact_text(key) if isinstance(key, str) else shown_repr(key)
