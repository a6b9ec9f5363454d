"""The syscalls of the tool manager, and what they are answered with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from aios_core.errors import InvalidArguments, InvalidRequest
from aios_core.messages import ToolSpec, require_number
from aios_core.permissions import Access, Resource, Right
from aios_core.redaction import shown_repr
from aios_core.syscalls import Discloses, Request
from aios_core.tools.strict_json import NotJSON, parse, plain
from aios_core.untrusted.arguments import reads_arguments, require_text
from aios_core.untrusted.fields import CheckedFields

MAX_ARGUMENT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ToolRun(Request[Any]):
    """Run a tool. Answered with what it returns, plain JSON, or a `StoredResult`.

    `arguments` may be the JSON text that a model wrote. `idempotency_key` names the
    intent: a repeat with the same key is the same call, see `aios_core.tools.journal`.
    """

    kind: ClassVar[str] = "tool.run"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_guarded: ClassVar[bool] = True
    name: str  # "calculator", or one version of it: "calculator@1"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None  # None: the call is like no other

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidRequest(f"name: got {shown_repr(self.name)}; allowed: the name of a tool")
        if not isinstance(self.idempotency_key, str | None) or self.idempotency_key == "":
            raise InvalidRequest(
                f"idempotency_key: got {shown_repr(self.idempotency_key)}; allowed: a text"
            )
        object.__setattr__(self, "arguments", _plain_arguments(self.name, self.arguments))

    def access(self, identity: str) -> Access:  # noqa: ARG002 - tools are the kernel's
        """To run the tool; the manager puts in what the tool says about itself."""
        resource = Resource("tool", None, self.name)
        return Access(self.kind, Right.EXECUTE, resource, self.arguments)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result that was too large to hand over; `ToolRead` gives it piece by piece."""

    reference: str
    num_bytes: int  # of its JSON text, or of the text that it is
    head: str  # how it begins

    def __str__(self) -> str:
        return (
            f"[{self.num_bytes:,} bytes, too many to show; stored as {self.reference}. "
            f"It begins:]\n{self.head}"
        )


@dataclass(frozen=True, slots=True)
class ToolRead(Request[str]):
    """Read a part of a stored result, in characters."""

    kind: ClassVar[str] = "tool.read"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    reference: str
    offset: int = 0
    length: int = 16_384

    def __post_init__(self) -> None:
        for name in ("offset", "length"):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise InvalidRequest(
                    f"{name}: got {shown_repr(number)}; allowed: a whole number from 0"
                )

    def access(self, identity: str) -> Access:
        """To read what is the agent's own."""
        return Access(self.kind, Right.READ, Resource("tool_result", identity, self.reference))


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool as it is listed."""

    name: str
    version: str
    description: str
    parameters: Mapping[str, Any]
    source: str  # who offers it
    is_newest: bool  # what the bare name stands for
    owner: str | None  # the agent whose own it is; None: everybody's
    declared: Mapping[str, Any]  # read_only, idempotent, irreversible, ... where not the default
    num_running: int = 0
    num_waiting: int = 0
    refused_for_s: float = 0.0  # its circuit breaker is open

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def spec(self) -> ToolSpec:
        """The tool as it is offered to a model."""
        return ToolSpec(self.name, self.description, self.parameters)


@dataclass(frozen=True, slots=True)
class ToolList(Request[tuple[ToolInfo, ...]]):
    """Which tools there are."""

    kind: ClassVar[str] = "tool.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:  # noqa: ARG002
        """To look at the tools."""
        return Access(self.kind, Right.READ, Resource("tool", None))


@dataclass(frozen=True, slots=True)
class McpServer(CheckedFields):
    """Where an MCP server is: a program to start (stdio), or a URL (streamable HTTP)."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  # besides the few that are always passed
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False  # whether what it says about its tools is believed
    timeout_s: float = 30.0  # to connect

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise InvalidRequest(
                f"MCP server {self.name!r} has a command or a url, and one of them"
            )


class OfferedFunction(Protocol):
    """A function with what a model is told about it: `aios_core.tools.tool.Tool`."""

    @property
    def function(self) -> Callable[..., Any]:
        """Return what runs when the tool is called."""


@dataclass(frozen=True, slots=True)
class ToolLoad(Request[tuple[str, ...]]):
    """Offer more tools: those of a file, a module, an MCP server, or one function.

    Loading again what is loaded reloads it: calls under way end with the old code.
    Answered with the ids of the tools. `is_private`: for the calling agent alone, until it exits.
    """

    kind: ClassVar[str] = "tool.load"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    source: str | Path | OfferedFunction | Callable[..., Any] | McpServer
    is_private: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", checked_source(self.source))

    def access(self, identity: str) -> Access:
        """To bring code into the kernel's process, or to offer a function of one's own.

        What would be run is among the arguments, so that an approval is for exactly that.
        """
        named = source_name(self.source)
        return Access(
            self.kind,
            Right.WRITE,
            Resource("tool", identity if self.is_private else None, named),
            {"source": named, **_started_by(self.source)},
            irreversible=self._why_irreversible(),
        )

    def _why_irreversible(self) -> str | None:
        if isinstance(self.source, McpServer):
            if self.source.command is not None:
                return "starts a program with the rights of the kernel's user"
            return "connects the kernel to a server, and offers the tools that the server lists"
        if isinstance(self.source, str | Path):
            return "runs code in the kernel's process"
        return None if self.is_private else "offers a function of this program to everybody"


@dataclass(frozen=True, slots=True)
class ToolUnload(Request[tuple[str, ...]]):
    """Offer a plug-in, or a tool, no more. Calls under way end as they would.

    `name` is that of a tool ("calculator"), of one version, or of a source as `ToolList` says it.
    """

    kind: ClassVar[str] = "tool.unload"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    name: str
    is_private: bool = False

    def access(self, identity: str) -> Access:
        """To change what everybody is offered, or only oneself."""
        owner = identity if self.is_private else None
        return Access(
            self.kind,
            Right.WRITE,
            Resource("tool", owner, self.name),
            irreversible=None if self.is_private else "takes a tool from everybody",
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """A call of which nobody knows whether it took effect."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    idempotency_key: str
    started_at: float  # seconds since 1970
    is_repeatable: bool  # may be run again with its key
    labels: frozenset[str] = frozenset()  # of the agent that made it: its arguments quote them


@dataclass(frozen=True, slots=True)
class ToolDoubts(Request[tuple[Doubt, ...]]):
    """The agent's calls of which nobody knows whether they took effect."""

    kind: ClassVar[str] = "tool.in_doubt"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:
        """To see one's own calls."""
        return Access(self.kind, Right.READ, Resource("tool_call", identity))


@dataclass(frozen=True, slots=True)
class ToolResolve(Request[None]):
    """Say what became of a call in doubt, after a look at the world outside."""

    kind: ClassVar[str] = "tool.resolve"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    call_id: str
    took_effect: bool

    def access(self, identity: str) -> Access:
        """To settle one's own call; a person ought to have looked."""
        return Access(
            self.kind,
            Right.WRITE,
            Resource("tool_call", identity, self.call_id),
            {"took_effect": self.took_effect},
            irreversible="settles whether a call took effect, which only a person can find out",
        )


@reads_arguments
def checked_source(source: Any) -> Any:
    """Where tools come from. Raises `InvalidRequest` for what can offer none."""
    if isinstance(source, str):
        text = require_text("source", source)
        if not text or "\0" in text:
            raise InvalidRequest(f"source: got {text!r}; allowed: a module or a path")
        return text
    if not isinstance(source, Path | McpServer) and not callable(source) and not _is_tool(source):
        raise InvalidRequest(
            "source: allowed: a file, a module, a function, a Tool or an McpServer; got "
            f"{shown_repr(source)}"
        )
    return source


def _is_tool(source: object) -> bool:
    return hasattr(type(source), "__dataclass_fields__") and hasattr(source, "function")


def source_name(source: object) -> str:
    """A source in words, for rules, lists and messages."""
    if isinstance(source, McpServer):
        return f"mcp:{source.name}"
    if isinstance(source, str | Path):
        return str(source)
    function = getattr(source, "function", source)
    module, name = getattr(function, "__module__", "?"), getattr(function, "__qualname__", "?")
    return f"function {module}.{name}"


def _started_by(source: object) -> dict[str, Any]:
    """What loading a source runs or reaches, for rules and approvals; secrets by name only."""
    if isinstance(source, str | Path) and is_path(source):
        return {"path": str(Path(source).expanduser().absolute())}
    if not isinstance(source, McpServer):
        return {}
    if source.url is not None:
        return {"url": source.url, "headers": sorted(source.headers), "trusted": source.trusted}
    return {
        "command": source.command,
        "args": list(source.args),
        "env": sorted(source.env),
        "cwd": source.cwd,
        "trusted": source.trusted,
    }


def is_path(source: str | Path) -> bool:
    """Whether a source is a file: a `Path`, or a text with a slash or that ends with ".py"."""
    return isinstance(source, Path) or "/" in source or source.endswith(".py")


def _plain_arguments(tool: str, arguments: object) -> dict[str, Any]:
    try:
        if isinstance(arguments, str):
            value = parse(arguments or "{}", MAX_ARGUMENT_BYTES)
        else:
            value = plain(arguments)
    except NotJSON as exc:
        raise InvalidArguments(tool, {exc.path or "arguments": exc.reason}) from exc
    if not isinstance(value, dict):
        raise InvalidArguments(tool, {"arguments": f"got {shown_repr(value)}, expected an object"})
    if reserved := [name for name in value if name.startswith("@")]:
        raise InvalidArguments(tool, {reserved[0]: "no argument begins with '@'"})
    return value


def require_timeout(timeout_s: float | None) -> None:
    """Raise `InvalidRequest` unless it is None or a number of seconds."""
    require_number("timeout_s", timeout_s, at_least=0.0)
