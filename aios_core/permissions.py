"""The access that a request needs: an action, a right and a resource.

Every request describes its own access (`Request.access`); `aios_core.access` decides. The
requests by which agents grant each other rights are in `aios_core.grants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Right(StrEnum):
    """A right to do something to a resource."""

    READ = "read"
    WRITE = "write"  # change it, add to it, remove it
    EXECUTE = "execute"  # run a tool, ask a model
    SHARE = "share"  # give others a right to it


#: The kinds of resource that the kernel's own requests are about.
KINDS: Final = (
    *("memory", "file", "collection", "tool", "tool_result", "tool_call", "model"),
    *("operation", "privileges"),
)

#: Rights of an owner over what belongs to it.
ALL_RIGHTS: Final = frozenset(Right)


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that belongs to an agent, or is unowned.

    `owner` is the identity of an agent (`AgentProcess.identity`), or None for
    unowned resources: tools, models, shared mounts. `name` is a block of memory, a path, a
    tool, a model; "" stands for everything of that kind.
    """

    kind: str  # "memory", "file", "tool", "model", "agent"
    owner: str | None
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.owner or ''}:{self.name}"


@dataclass(frozen=True, slots=True)
class Access:
    """One access that a request asks for.

    `arguments` holds plain JSON values (bytes as their SHA-256), complete enough
    that two requests with equal actions, resources and arguments do the same: an
    approval is bound to them. `also` holds the other accesses of the same request, such
    as to the destination of a moved file; each of them has to be allowed too.
    """

    action: str  # the request's kind, such as "memory.write"
    right: Right
    resource: Resource
    arguments: Mapping[str, Any] = field(default_factory=dict)
    irreversible: str | None = None  # why it cannot be undone, as text; None: it can be
    also: tuple[Access, ...] = ()
