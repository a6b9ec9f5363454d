"""Whose call it is: the key by which an adapter finds the agent behind a call.

    caller          its agent ends
    named           with its kernel
    conversation    when nobody used it for a while
    run             when the adapter says that the run is over
    object          when the framework's object is collected; when idle
    asyncio task    with the task
    thread          with the thread; when nobody used it for a while

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
    """How a caller was found, and with that how long its agent lives; see the module."""

    NAMED = "named"
    CONVERSATION = "conversation"
    RUN = "run"
    OBJECT = "object"
    TASK = "asyncio task"
    THREAD = "thread"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is. Calls of equal callers are calls of one agent."""

    kind: CallerKind
    key: object  # hashable
    name: str = field(compare=False)  # what the agent is called
    anchor: weakref.ref[Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def named(cls, name: str, group: str | None = None) -> Self:
        """The agent that somebody named; one of each name in each group."""
        return cls(CallerKind.NAMED, (name, group), name)

    @classmethod
    def of_object(cls, owner: object, name: str) -> Self:
        """A framework's agent object. Raises `TypeError` if it cannot be referred to weakly."""
        return cls(CallerKind.OBJECT, _serials.of(owner), name, weakref.ref(owner))


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What an agent is spawned with. None: the kernel's default."""

    group: str | None = None
    priority: int | None = None
    weight: float = 1.0
    budget: Budget | None = None

    def updated(self, said: Mapping[str, Any], prefix: str = "") -> AgentSettings:
        """These settings under those that a call's metadata names.

        Args:
            said: may hold `group`, `priority`, `weight` and `budget` (a `Budget`, or its fields);
                other keys are ignored, unless they have the prefix.
            prefix: stands before each of the keys, and before `agent`.

        Raises:
            InvalidRequest: a value is of the wrong type, or a key with the prefix is none of
                these; names it.
        """
        if prefix:
            _refuse_unknown(said, prefix)
        changes = {
            key: _parsed(prefix + key, said[prefix + key], parse)
            for key, parse in _PARSERS.items()
            if said.get(prefix + key) is not None
        }
        return replace(self, **changes) if changes else self


def _refuse_unknown(said: Mapping[str, Any], prefix: str) -> None:
    known = [prefix + key for key in ("agent", *_PARSERS)]
    for key in said:
        if key.startswith(prefix) and key not in known:
            raise InvalidRequest(f"{key}: no such setting; there are {', '.join(known)}")


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


# --- where nobody says whose call it is ----------------------------------------------------------

_numbers = itertools.count(1)
_of_thread = threading.local()


class _ThreadLife:
    """Lives in a thread's own storage, and so as long as the thread."""

    def __init__(self) -> None:
        self.number = next(_numbers)


def current_caller() -> Caller:
    """The asyncio task that runs, else the thread."""
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            return Caller(CallerKind.TASK, task, task.get_name())
    if not hasattr(_of_thread, "life"):
        _of_thread.life = _ThreadLife()
    life = _of_thread.life
    name = threading.current_thread().name
    return Caller(CallerKind.THREAD, life.number, name, weakref.ref(life))


def enclosing_instance(kinds: tuple[type, ...]) -> Any:
    """The innermost object of one of these classes whose method is running, or awaits us; or None.

    Looks at ``self`` in the frames below the caller's (methods, and functions inside of methods):
    a stack of calls, or a chain of awaits within one asyncio task. Microseconds; no framework
    has to cooperate.
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
    """A number for each object, never given twice, forgotten with the object."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}  # by id of a living object

    def of(self, owner: object) -> int:
        """Its number. Needs no lock: only single operations on a dictionary."""
        address = id(owner)
        reference = weakref.ref(owner, lambda _: self._known.pop(address, None))
        return self._known.setdefault(address, (reference, next(_numbers)))[1]


_serials = _Serials()
