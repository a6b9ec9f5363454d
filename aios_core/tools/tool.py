"""What a tool is: a name, a JSON schema, a function, and what it says about itself.

    @tool(read_only=True, trusted=True)
    def word_count(text: str) -> int:
        "Count the words of a text."
        return len(text.split())

The function may be called and tested as before: `word_count.function("a b")`.
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

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # what every model API takes
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+){0,3}")


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `calls` calls begin in any `per_s` seconds, on average; that many at once."""

    calls: int
    per_s: float = 1.0

    @reads_arguments
    def __post_init__(self) -> None:
        for key, what in (("calls", "a number of at least 1"), ("per_s", "seconds above 0")):
            value = getattr(self, key)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and value > 0 and (key == "per_s" or value >= 1)):
                raise InvalidRequest(f"a rate's {key}: got {shown_repr(value)}; allowed: {what}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that agents may call through the kernel.

    What a tool does not say is taken at its worst: it has effects, they cannot be
    repeated, and its results come from a stranger.

    Raises `InvalidRequest` if the description contradicts itself.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]  # JSON Schema of the arguments, an object
    function: Callable[..., Any]  # takes the arguments by name; may be a coroutine function
    version: str = "1"
    read_only: bool = False  # changes nothing anywhere; may be repeated freely
    idempotent: bool = False  # done twice (with one idempotency key) is done once
    irreversible: str | None = None  # why it cannot be undone, such as "sends a message"
    runs_code: bool = False  # of others, in the sandbox: not where nothing can confine it
    trusted: bool = False  # no: what it returns carries the label "tool:NAME"
    repairs: bool = True  # harmless mistakes in arguments may be mended
    exclusive: tuple[str, ...] = ()  # names of what no two calls may use at once
    parallel: int | None = None  # calls at once; None: as many as there are workers
    rate: Rate | None = None
    timeout_s: float | None = None  # of one attempt; None: the kernel's default
    retries: int = 0  # further attempts after a failure; idempotent tools only
    isolation: Isolation = "thread"  # "process": in one that can be killed; no kernel services
    context_name: str | None = field(default=None, kw_only=True)  # parameter of the `ToolContext`

    @reads_arguments
    def __post_init__(self) -> None:
        self._require_types()
        if not _NAME.fullmatch(self.name):
            raise InvalidRequest(
                f"tool name {self.name!r}; allowed: letters, digits, '_' and '-', at most 64"
            )
        self._require(_VERSION.fullmatch(self.version), f"version {self.version!r}, not like 1.2")
        self._require(self.isolation in ISOLATIONS, f"isolation {self.isolation!r}")
        self._require(
            not self.retries or self.is_repeatable,
            "retries, and is neither read_only nor idempotent",
        )
        self._require(
            not (self.read_only and self.irreversible), "read_only, and also irreversible"
        )
        self._require(self.retries >= 0, f"{self.retries} retries")
        self._require(self.parallel is None or self.parallel >= 1, f"parallel {self.parallel}")
        self._require(self.timeout_s is None or self.timeout_s > 0, f"timeout_s {self.timeout_s}")
        self._require(
            self.parameters.get("type", "object") == "object", "parameters that are no object"
        )

    def __repr__(self) -> str:
        return f"<Tool {self.id}>"

    @property
    def id(self) -> str:
        """The name with the version: "calculator@1"."""
        return f"{self.name}@{self.version}"

    @property
    def is_repeatable(self) -> bool:
        """Whether running it again, with the same key, does no harm."""
        return self.read_only or self.idempotent

    @property
    def version_key(self) -> tuple[int, ...]:
        """Orders versions."""
        return tuple(map(int, self.version.split(".")))

    def _require_types(self) -> None:
        """Refuse fields of the wrong type by name; texts are kept without foreign methods."""
        for key in ("name", "description", "version"):
            object.__setattr__(self, key, require_text(f"a tool's {key}", getattr(self, key)))
        for key in ("retries", "parallel"):
            require_integer(f"a tool's {key}", getattr(self, key))
        require_number("a tool's timeout_s", self.timeout_s)
        parameters: object = self.parameters
        if not isinstance(parameters, Mapping):
            told = f"a tool's parameters: got {shown_repr(parameters)}; allowed: a JSON schema"
            raise InvalidRequest(told)

    def _require(self, holds: object, declared: str) -> None:
        if not holds:
            raise InvalidRequest(f"tool {self.name!r} declares {declared}")


class ToolDeclaration(TypedDict, total=False):
    """What `tool` takes next to name, description and schema: the other fields of `Tool`."""

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
    """Make a tool of a function: its schema comes from its annotations and its docstring.

    A parameter annotated `ToolContext` gets the context of the call and is no part of
    the schema.

    Args:
        function: what the tool runs; given by the bare decorator.
        name: None for the function's own.
        description: None for the docstring without its sections.
        parameters: a JSON schema instead of the one from the annotations.
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
        raise InvalidRequest(f"{shown_repr(function)} has no name of its own; give the tool one")
    return name
