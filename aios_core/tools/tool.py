"""Tools: a function with a name, a JSON schema and declarations, and the decorator `tool`.

    @tool(read_only=True, trusted=True)
    def word_count(text: str) -> int:
        "Count the words of a text."
        return len(text.split())

The function can still be called directly, as in a test: `word_count.function("a b")`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypedDict, Unpack, overload

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.tools.context import ToolContext
from aios_core.tools.signature import description_of, parameters_of, type_hints_of
from aios_core.untrusted.arguments import (
    reads_arguments,
    require_integer,
    require_number,
    require_text,
)

Isolation = Literal["thread", "process"]
ISOLATIONS: Final = ("thread", "process")

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # accepted by every model API
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+){0,3}")


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit: on average, at most `calls` calls start in `per_s` seconds.

    After a pause, that many may start at once.
    """

    calls: int
    per_s: float = 1.0

    @reads_arguments
    def __post_init__(self) -> None:
        for key, what in (("calls", "a number of at least 1"), ("per_s", "seconds above 0")):
            value = getattr(self, key)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and value > 0 and (key == "per_s" or value >= 1)):
                raise InvalidRequest(f"rate.{key}: got {shown_repr(value)}; allowed: {what}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that agents may call through the kernel.

    The defaults assume the worst: the tool has effects, must not be repeated, and returns
    untrusted results. Declarations that contradict each other raise `InvalidRequest`.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]  # JSON Schema of the arguments, an object
    function: Callable[..., Any]  # takes the arguments by name; may be a coroutine function
    version: str = "1"
    read_only: bool = False  # changes nothing anywhere; may be repeated freely
    idempotent: bool = False  # running it twice with one idempotency key has the effect of once
    irreversible: str | None = None  # why it cannot be undone, such as "sends a message"
    runs_code: bool = False  # of others, in the sandbox; refused without one
    trusted: bool = False  # if False, its results carry the label "tool:NAME"
    repairs: bool = True  # harmless mistakes in arguments are coerced
    exclusive: tuple[str, ...] = ()  # names of resources that no two calls may use at once
    parallel: int | None = None  # calls at once; None: as many as there are workers
    rate: Rate | None = None
    timeout_s: float | None = None  # of one attempt; None: `tools.timeout_s`
    retries: int = 0  # further attempts after a failure; idempotent tools only
    isolation: Isolation = "thread"  # "process": can be killed, but cannot use the kernel
    context_name: str | None = field(default=None, kw_only=True)  # parameter of the `ToolContext`

    @reads_arguments
    def __post_init__(self) -> None:
        self._require_types()
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                f"tool name {self.name!r}; allowed: letters, digits, '_' and '-', at most 64"
            )
        self._require(
            _VERSION.fullmatch(self.version), f"version {self.version!r}; allowed: numbers and dots"
        )
        self._require(
            self.isolation in ISOLATIONS, f"isolation {self.isolation!r}; allowed: {ISOLATIONS}"
        )
        self._require(
            not self.retries or self.is_repeatable,
            "retries; allowed only with read_only or idempotent",
        )
        self._require(
            not (self.read_only and self.irreversible), "read_only and irreversible; allowed: one"
        )
        self._require(self.retries >= 0, f"retries {self.retries}; allowed: 0 or more")
        self._require(
            self.parallel is None or self.parallel >= 1,
            f"parallel {self.parallel}; allowed: 1 or more",
        )
        self._require(
            self.timeout_s is None or self.timeout_s > 0,
            f"timeout_s {self.timeout_s}; allowed: above 0",
        )
        self._require(
            self.parameters.get("type", "object") == "object",
            "parameters of another type than object",
        )

    def __repr__(self) -> str:
        return f"<Tool {self.id}>"

    @property
    def id(self) -> str:
        """The name with the version: "calculator@1"."""
        return f"{self.name}@{self.version}"

    @property
    def is_repeatable(self) -> bool:
        """Whether running it again with the same key is harmless."""
        return self.read_only or self.idempotent

    @property
    def version_key(self) -> tuple[int, ...]:
        """The version as numbers, for comparison."""
        return tuple(map(int, self.version.split(".")))

    def _require_types(self) -> None:
        """Refuse fields of a wrong type by name, and copy texts, without third-party methods."""
        for key in ("name", "description", "version"):
            object.__setattr__(self, key, require_text(f"a tool's {key}", getattr(self, key)))
        for key in ("retries", "parallel"):
            require_integer(f"a tool's {key}", getattr(self, key))
        require_number("a tool's timeout_s", self.timeout_s)
        parameters: object = self.parameters
        if not isinstance(parameters, Mapping):
            reason = f"a tool's parameters: got {shown_repr(parameters)}; allowed: a JSON schema"
            raise InvalidRequest(reason)

    def _require(self, holds: object, declared: str) -> None:
        if not holds:
            raise InvalidRequest(f"tool {self.name!r} declares {declared}")


class ToolDeclaration(TypedDict, total=False):
    """The keyword arguments of `tool` after name, description and schema: fields of `Tool`."""

    version: str
    read_only: bool
    idempotent: bool
    irreversible: str | None
    runs_code: bool
    trusted: bool
    repairs: bool
    exclusive: tuple[str, ...]
    parallel: int | None
    rate: Rate | None
    timeout_s: float | None
    retries: int
    isolation: Isolation


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    **declared: Unpack[ToolDeclaration],
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    **declared: Unpack[ToolDeclaration],
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool from a function, with a schema from its annotations and its docstring.

    A parameter annotated `ToolContext` gets the context of the call and is not part of
    the schema.

    Args:
        function: the function, when `tool` is used as a bare decorator.
        name: of the tool; None for the name of the function.
        description: for models; None for the docstring up to its first section.
        parameters: a JSON schema in place of the one from the annotations.
        **declared: the other fields of `Tool`.

    Raises:
        InvalidRequest: an annotation has no JSON counterpart, or fields contradict each other.
    """

    def make(function: Callable[..., Any]) -> Tool:
        if not callable(function):
            raise InvalidRequest(f"tool: got {shown_repr(function)}; allowed: a function")
        hints = type_hints_of(function)
        context_name = next((key for key, hint in hints.items() if hint is ToolContext), None)
        skipped = frozenset({context_name} if context_name else ())
        return Tool(
            name=_name_of(function) if name is None else name,
            description=description_of(function) if description is None else description,
            parameters=parameters or parameters_of(function, skipped),
            function=function,
            context_name=context_name,
            **declared,
        )

    return make if function is None else make(function)


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise InvalidRequest(f"{shown_repr(function)} has no name; give the tool a `name`")
    return name
