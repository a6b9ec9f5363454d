"""Identify the caller of a call: the key under which an adapter finds its agent.

    caller          its agent exits
    named           with its kernel
    conversation    when it is idle
    run             when the adapter reports the end of the run
    object          when the framework's object is collected, or when it is idle
    asyncio task    with the task
    thread          with the thread, or when it is idle

An adapter asks its framework first (a run, a conversation's id, an agent object)
and falls back on `current_caller`. Nothing here keeps an object alive.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import FrameType
from typing import Any, Self

from aios_core.budget import Budget
from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr


class CallerKind(StrEnum):
    """The way in which a caller was found; decides the lifetime of its agent."""

    NAMED = "named"
    CONVERSATION = "conversation"
    RUN = "run"
    OBJECT = "object"
    TASK = "asyncio task"
    THREAD = "thread"


@dataclass(frozen=True, slots=True)
class Caller:
    """The framework object, run, task or thread that makes a call.

    Calls of equal callers are calls of one agent.
    """

    kind: CallerKind
    key: object  # hashable
    name: str = field(compare=False)  # of the agent
    anchor: weakref.ref[Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def named(cls, name: str, group: str | None = None) -> Self:
        """Return the caller that stands for an agent's name in a group."""
        return cls(CallerKind.NAMED, (name, group), name)

    @classmethod
    def of_object(cls, owner: object, name: str) -> Self:
        """Return the caller for a framework's agent object.

        Raises:
            TypeError: the object cannot be referred to weakly.
        """
        return cls(CallerKind.OBJECT, _serials.of(owner), name, weakref.ref(owner))


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """The settings with which an agent is spawned. None: the kernel's default."""

    group: str | None = None
    priority: int | None = None
    weight: float = 1.0
    budget: Budget | None = None

    def updated(self, metadata: Mapping[str, Any], prefix: str = "") -> AgentSettings:
        """Return these settings, overridden by those in a call's metadata.

        Args:
            metadata: may hold `group`, `priority`, `weight` and `budget` (a `Budget`, or its
                fields); other keys are ignored, unless they have the prefix.
            prefix: precedes each of the keys, and `agent`.

        Raises:
            InvalidRequest: a value has the wrong type, or a key with the prefix is unknown; the
                message names it.
        """
        if prefix:
            _require_known(metadata, prefix)
        changes = {
            key: _parsed(prefix + key, metadata[prefix + key], parse)
            for key, parse in _PARSERS.items()
            if metadata.get(prefix + key) is not None
        }
        return replace(self, **changes) if changes else self


def _require_known(metadata: Mapping[str, Any], prefix: str) -> None:
    known = [prefix + key for key in ("agent", *_PARSERS)]
    for key in metadata:
        if key.startswith(prefix) and key not in known:
            raise InvalidRequest(f"{key}: no such setting; allowed: {', '.join(known)}")


def _budget(value: Any) -> Budget:
    return value if isinstance(value, Budget) else Budget(**value)


_PARSERS: Mapping[str, Any] = {"group": str, "priority": int, "weight": float, "budget": _budget}


def _parsed(key: str, value: Any, parse: Any) -> Any:
    try:
        return parse(value)
    except (TypeError, ValueError) as exc:
        wanted = (
            "a Budget or its fields" if parse is _budget else f"a value of type {parse.__name__}"
        )
        raise InvalidRequest(f"{key}: got {shown_repr(value)}; allowed: {wanted}") from exc


# --- callers that the framework does not name ----------------------------------------------------

_numbers = itertools.count(1)
_of_thread = threading.local()


class _ThreadLife:
    """A number of a thread. Kept in the thread's local storage, so it is collected with it."""

    def __init__(self) -> None:
        self.number = next(_numbers)


def current_caller() -> Caller:
    """Return the asyncio task that runs, or else the thread, as a caller."""
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            return Caller(CallerKind.TASK, task, task.get_name())
    if not hasattr(_of_thread, "life"):
        _of_thread.life = _ThreadLife()
    life = _of_thread.life
    name = threading.current_thread().name
    return Caller(CallerKind.THREAD, life.number, name, weakref.ref(life))


def enclosing_instance(kinds: tuple[type, ...]) -> Any:
    """Return the innermost object of one of these classes that has a method on the call stack.

    Checks ``self`` in the frames below the caller's (methods, and functions inside of methods):
    a stack of calls, or a chain of awaits within one asyncio task. Takes microseconds, and no
    framework has to cooperate. Returns None if there is no such object.
    """
    wanted = frozenset(kinds)
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the documented way to the stack
    while frame is not None:
        code = frame.f_code
        if code.co_varnames[:1] == ("self",) or "self" in code.co_freevars:
            owner = frame.f_locals.get("self")
            # Not isinstance: protocols and abstract classes would make it many times slower.
            if not wanted.isdisjoint(type(owner).__mro__):
                return owner
        frame = frame.f_back
    return None


class _Serials:
    """Numbers of objects: never used twice (as `id` is), and dropped with the object."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}  # by id of a living object

    def of(self, owner: object) -> int:
        """Return the number of an object. Needs no lock: single operations on a dictionary."""
        address = id(owner)
        reference = weakref.ref(owner, lambda _: self._known.pop(address, None))
        return self._known.setdefault(address, (reference, next(_numbers)))[1]


_serials = _Serials()
