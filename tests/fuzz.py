"""Wrong values for public calls: what they are, and which calls there are.

Each public method is found by its signature, and called with one value or more that is of a wrong
type or out of all bounds. What comes out has to be an answer, or an error of the kernel other than
`KernelBug`: never a `TypeError` from the depth, and never silence.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

import aios_core
from aios_core import Agent, Kernel, KernelError
from aios_core.errors import KernelBug
from aios_core.kernel.llm import build_llm_request
from aios_core.messages.sampling import Sampling


class Strange:
    """An object that has no business here."""


class Unshowable:
    """An object with a `repr` that raises."""

    def __repr__(self) -> str:
        raise ValueError("not to be shown")


class Hostile(str):
    """A text with methods that raise."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError("not a text")


class NoItems(dict[str, Any]):
    """A mapping that cannot be read."""

    def items(self) -> Any:
        raise ValueError("no items")

    def __iter__(self) -> Any:
        raise ValueError("no keys")

    def get(self, *_: object) -> Any:
        raise ValueError("no values")


class NoElements(list[Any]):
    """A list that cannot be read."""

    def __iter__(self) -> Any:
        raise ValueError("no elements")

    def __len__(self) -> int:
        raise ValueError("no length")


class Incomparable:
    """An object that raises when it is compared."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    def __bool__(self) -> bool:
        raise ValueError("neither")


class Uncountable(int):
    """A number with methods that raise."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    def __lt__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    __le__ = __gt__ = __ge__ = __lt__

    def __abs__(self) -> int:
        raise ValueError("no size")

    def __repr__(self) -> str:
        raise ValueError("not to be shown")


class Pretender:
    """An object that lies about its class, and raises at every access."""

    @property
    def __class__(self) -> Any:
        raise ValueError("do not ask")

    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)


def failing() -> Iterator[Any]:
    """A generator that raises after its first element."""
    yield "a"
    raise ValueError("no more")


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    inner: Any = []
    for _ in range(depth):
        inner = [inner]
    return inner


def circular() -> Any:
    """A list that holds itself."""
    inner: list[Any] = []
    inner.append(inner)
    return inner


# Made for each call: generators are used up, lists are changed.
POOL: Final[tuple[Callable[[], Any], ...]] = (
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: -1,
    lambda: 10**30,
    lambda: 10**5_000,
    lambda: 1.5,
    lambda: math.nan,
    lambda: math.inf,
    lambda: -0.0,
    lambda: 1e308,
    lambda: b"bytes",
    lambda: bytearray(b"x"),
    lambda: "",
    lambda: " ",
    lambda: "\0",
    lambda: "a\nb",
    lambda: "\ud800",
    lambda: "x" * 20_000,
    lambda: "/../..",
    lambda: "*",
    list,
    lambda: [None],
    lambda: [1, "a"],
    lambda: ("a", "b"),
    dict,
    lambda: {"a": math.nan},
    lambda: {1: 2},
    lambda: {"\ud800": "\ud800"},
    lambda: {"role": "user", "content": 3},
    lambda: [{"role": "user"}],
    lambda: {"a", "b"},
    lambda: (number for number in range(3)),
    lambda: nested(2_000),
    lambda: {"a": nested(2_000)},
    circular,
    Strange,
    lambda: Strange,
    lambda: len,
    Unshowable,
    lambda: [Unshowable()],
    lambda: Hostile("x"),
    lambda: ValueError("x"),
    lambda: 1j,
    lambda: range(3),
    lambda: memoryview(b"x"),
    lambda: NoItems(role="user", content="x"),
    lambda: [NoItems(role="user", content="x")],
    lambda: {"a": NoItems(b="c")},
    lambda: NoElements(["a"]),
    lambda: {"a": NoElements(["b"])},
    Incomparable,
    lambda: [Incomparable()],
    lambda: {"a": Incomparable()},
    lambda: Uncountable(3),
    lambda: {"a": Uncountable(3)},
    lambda: {"role": Hostile("user"), "content": Hostile("x")},
    Pretender,
    lambda: [Pretender()],
    failing,
    frozenset,
)

# What would be right, by the name of the parameter.
RIGHT: Final[dict[str, Any]] = {
    "messages": "hi",
    "block": "notes",
    "value": "text",
    "path": "/a/b",
    "to": "/c",
    "data": "text",
    "name": "thing",
    "query": "text",
    "prefix": "",
    "owner": None,
    "namespace": "space",
    "key": "key",
    "keys": ["key"],
    "items": [],
    "collection": "set",
    "texts": ["text"],
    "resource": "memory::notes",
    "with_": "default/bob",
    "action": "memory.read",
    "right": "read",
    "operation": "do it",
    "agent": "default/bob",
    "version": 1,
    "took_effect": True,
    "call_id": "1",
    "result": "1",
    "source": "json",
    "tool_calls": [],
    "message": "text",
    "role": "user",
    "content": "text",
}
PATIENCE_S: Final = 30.0  # of an answer that does not come
# They end what the next call needs, or take what only the kernel makes (a process, a request).
LEFT_OUT: Final = frozenset(
    {"start", "close", "aclose", "exit", "aexit", "call", "acall", "stream", "perform", "aperform"}
    | {"astream", "request_exit", "reload_access_policy", "areload_access_policy"}
)
_LLM_ARGUMENTS: Final = (
    *(
        name
        for name in inspect.signature(build_llm_request).parameters
        if name not in ("messages", "sampling")
    ),
    *(item.name for item in fields(Sampling) if item.name != "stop"),
    "timeout_s",
    "priority",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A public method, and the names of its arguments."""

    title: str
    method: Callable[..., Any]
    positional: tuple[str, ...]
    needed: tuple[str, ...]  # by name
    named: tuple[str, ...]
    is_async: bool = False

    def arguments(self, chance: random.Random) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of which one at least is wrong."""
        chosen = [name for name in self.named if chance.random() < 0.3]
        given = [*self.positional, *self.needed, *chosen]
        wrong = {chance.choice(given)} if given else set()
        wrong |= {name for name in given if chance.random() < 0.2}
        values = {
            name: chance.choice(POOL)() if name in wrong else RIGHT.get(name) for name in given
        }
        return (
            [values[name] for name in self.positional],
            {name: value for name, value in values.items() if name not in self.positional},
        )


def targets(kernel: Kernel, agent: Agent) -> list[Target]:
    """All public methods of a kernel, an agent, and what hangs on it."""
    holders = {
        "kernel": kernel,
        "agent": agent,
        "llm": agent.llm,
        "memory": agent.memory,
        "thread": agent.memory.thread("talk"),
        "kv": agent.memory.kv("space"),
        "storage": agent.storage,
        "tools": agent.tools,
        "access": agent.access,
        "collections": agent.collections,
    }
    return [
        _target(f"{holder}.{name}", method)
        for holder, one in holders.items()
        for name, method in _public_methods(one, is_all=holder not in ("kernel", "agent"))
    ]


def constructors() -> list[Target]:
    """All public dataclasses of the package, as users build them."""
    public = [(name, getattr(aios_core, name)) for name in sorted(aios_core.__all__)]
    public = [(name, one) for name, one in public if not inspect.isabstract(one)]
    return [
        _target(name, one) for name, one in public if isinstance(one, type) and is_dataclass(one)
    ]


def _public_methods(one: object, *, is_all: bool) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, _ in inspect.getmembers(type(one), inspect.isfunction):
        is_left_out = name in LEFT_OUT and not (is_all and name in ("stream", "astream", "call"))
        if not name.startswith("_") and not is_left_out:
            yield name, getattr(one, name)


async def _awaited(answer: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        if inspect.isawaitable(answer):
            answer = await answer
        if hasattr(answer, "aclose"):
            await answer.aclose()
        elif hasattr(answer, "close"):
            answer.close()


def _call(target: Target, args: list[Any], kwargs: dict[str, Any]) -> None:
    if target.is_async:

        async def call() -> None:
            await _awaited(target.method(*args, **kwargs))

        asyncio.run(call())
        return
    answer = target.method(*args, **kwargs)
    if hasattr(answer, "close"):
        answer.close()


def _target(title: str, method: Callable[..., Any]) -> Target:
    parameters = inspect.signature(method).parameters.values()
    positional = tuple(
        one.name
        for one in parameters
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.default is one.empty
    )
    needed = tuple(
        one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty
    )
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = tuple(
        one.name for one in parameters if one.kind in by_name and one.default is not one.empty
    )
    if title.startswith("llm.") and any(one.kind is one.VAR_KEYWORD for one in parameters):
        named = _LLM_ARGUMENTS[: -2 if title.endswith("measure") else None]  # it waits for nothing
    holder, _, name = title.rpartition(".")
    sync = name.removeprefix("a")
    is_twin = bool(holder) and name != sync and hasattr(method.__self__, sync)  # type: ignore[attr-defined]
    is_async = is_twin or inspect.iscoroutinefunction(method)
    return Target(title, method, positional, needed, named, is_async)


def offence(target: Target, seed: str) -> str | None:
    """Make one call. Returns a description of what went wrong, or None."""
    args, kwargs = target.arguments(random.Random(seed))
    try:
        _call(target, args, kwargs)
    except KernelBug as exc:
        return f"{target.title} {seed}: {exc!r}"
    except KernelError as exc:
        try:
            str(exc)
        except Exception as shown:  # noqa: BLE001 - that is the finding
            return f"{target.title} {seed}: its error cannot be shown: {shown!r}"
    except Exception as exc:  # noqa: BLE001 - that is the finding
        named = [*target.positional[: len(args)], *kwargs]
        return f"{target.title} {seed} ({', '.join(named)}): {type(exc).__name__}: {exc!s:.150}"
    return None
