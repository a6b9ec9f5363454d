"""The syscalls of the tool manager, and the types of their answers."""

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
    """Run a tool. Answered with its result, plain JSON, or a `StoredResult` if it is large.

    `arguments` may be the JSON text that a model wrote. `idempotency_key` identifies the
    intent: a repeat with the same key is the same call (`aios_core.tools.journal`).
    """

    kind: ClassVar[str] = "tool.run"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    is_guarded: ClassVar[bool] = True
    name: str  # "calculator", or one version of it: "calculator@1"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None  # None: every call is a new one

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidRequest(f"name: got {shown_repr(self.name)}; allowed: the name of a tool")
        if not isinstance(self.idempotency_key, str | None) or self.idempotency_key == "":
            raise InvalidRequest(
                f"idempotency_key: got {shown_repr(self.idempotency_key)}; allowed: a text"
            )
        object.__setattr__(self, "arguments", _plain_arguments(self.name, self.arguments))

    def access(self, identity: str) -> Access:  # noqa: ARG002 - tools are the kernel's
        """Return the access: to run the tool. The manager adds what the tool declares."""
        resource = Resource("tool", None, self.name)
        return Access(self.kind, Right.EXECUTE, resource, self.arguments)


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result that is too large for an answer; `agent.tools.read` returns parts of it."""

    reference: str
    num_bytes: int  # of the result, as text or as JSON
    head: str  # its first characters

    def __str__(self) -> str:
        return (
            f"[{self.num_bytes:,} bytes, too many to show; stored as {self.reference}. "
            f"It starts with:]\n{self.head}"
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
        """Return the access: to read a result of the agent."""
        return Access(self.kind, Right.READ, Resource("tool_result", identity, self.reference))


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool in the list of tools."""

    name: str
    version: str
    description: str
    parameters: Mapping[str, Any]
    source: str  # the plug-in, file, module, function or MCP server that offers it
    is_newest: bool  # the bare name means this version
    owner: str | None  # the agent that has it privately; None: all agents have it
    declared: Mapping[str, Any]  # read_only, idempotent, irreversible, ... where not the default
    num_running: int = 0
    num_waiting: int = 0
    refused_for_s: float = 0.0  # seconds until its circuit breaker allows calls

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def spec(self) -> ToolSpec:
        """The tool in the form that is offered to a model."""
        return ToolSpec(self.name, self.description, self.parameters)


@dataclass(frozen=True, slots=True)
class ToolList(Request[tuple[ToolInfo, ...]]):
    """List the tools that the agent can run."""

    kind: ClassVar[str] = "tool.list"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:  # noqa: ARG002
        """Return the access: to read the list of tools."""
        return Access(self.kind, Right.READ, Resource("tool", None))


@dataclass(frozen=True, slots=True)
class McpServer(CheckedFields):
    """The address of an MCP server: a program to start (stdio), or a URL (streamable HTTP)."""

    name: str
    command: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  # added to PATH, HOME and a few others
    cwd: str | None = None
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False  # whether its annotations of its tools count
    timeout_s: float = 30.0  # for connecting

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise InvalidRequest(
                f"MCP server {self.name!r}: got command {self.command!r} and url {self.url!r}; "
                "allowed: either a command or a url"
            )


class OfferedFunction(Protocol):
    """A function with its description for models, such as `aios_core.tools.tool.Tool`."""

    @property
    def function(self) -> Callable[..., Any]:
        """The function that runs when the tool is called."""


@dataclass(frozen=True, slots=True)
class ToolLoad(Request[tuple[str, ...]]):
    """Offer the tools of a file, a module or an MCP server, or one function.

    Loading a source again reloads it: calls in flight end with the old code. Answered with the
    ids of the tools. With `is_private`, they are for the calling agent alone, until it exits.
    """

    kind: ClassVar[str] = "tool.load"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    source: str | Path | OfferedFunction | Callable[..., Any] | McpServer
    is_private: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", require_source(self.source))

    def access(self, identity: str) -> Access:
        """Return the access: to bring code into the kernel's process, or to offer a function.

        The code or program to run is among the arguments, so that an approval covers only it.
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
            return "connects the kernel to a server and offers the tools of the server"
        if isinstance(self.source, str | Path):
            return "runs code in the kernel's process"
        return None if self.is_private else "offers a function of this program to all agents"


@dataclass(frozen=True, slots=True)
class ToolUnload(Request[tuple[str, ...]]):
    """Stop offering a plug-in, a tool or a version. Calls in flight end as usual.

    `name` is that of a tool ("calculator"), of a version, or of a source as listed.
    """

    kind: ClassVar[str] = "tool.unload"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT
    name: str
    is_private: bool = False

    def access(self, identity: str) -> Access:
        """Return the access: to change the tools of all agents, or only of the agent."""
        owner = identity if self.is_private else None
        return Access(
            self.kind,
            Right.WRITE,
            Resource("tool", owner, self.name),
            irreversible=None if self.is_private else "takes a tool away from all agents",
        )


@dataclass(frozen=True, slots=True)
class DoubtfulCall:
    """A call of which it is unknown whether it took effect."""

    call_id: str
    tool: str
    arguments: Mapping[str, Any]
    idempotency_key: str
    started_at: float  # seconds since 1970
    is_repeatable: bool  # it may be run again with its key
    labels: frozenset[str] = frozenset()  # of its agent; the arguments may quote what it read


@dataclass(frozen=True, slots=True)
class ToolInDoubtList(Request[tuple[DoubtfulCall, ...]]):
    """List the agent's calls of which it is unknown whether they took effect."""

    kind: ClassVar[str] = "tool.in_doubt"
    discloses: ClassVar[Discloses | None] = Discloses.CONTENT

    def access(self, identity: str) -> Access:
        """Return the access: to read the agent's calls."""
        return Access(self.kind, Right.READ, Resource("tool_call", identity))


@dataclass(frozen=True, slots=True)
class ToolResolve(Request[None]):
    """Record whether a call in doubt took effect, after checking the outside world."""

    kind: ClassVar[str] = "tool.resolve"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    call_id: str
    took_effect: bool

    def access(self, identity: str) -> Access:
        """Return the access: to resolve a call of the agent, which a person has to confirm."""
        return Access(
            self.kind,
            Right.WRITE,
            Resource("tool_call", identity, self.call_id),
            {"took_effect": self.took_effect},
            irreversible="records whether a call took effect, which only a person can find out",
        )


@reads_arguments
def require_source(source: Any) -> Any:
    """Return a source of tools. Raises `InvalidRequest` for anything that cannot be one."""
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
    """Return the name of a source, for access rules, lists and messages."""
    if isinstance(source, McpServer):
        return f"mcp:{source.name}"
    if isinstance(source, str | Path):
        return str(source)
    function = getattr(source, "function", source)
    module, name = getattr(function, "__module__", "?"), getattr(function, "__qualname__", "?")
    return f"function {module}.{name}"


def _started_by(source: object) -> dict[str, Any]:
    """Return what loading a source runs or connects to, for rules and approvals.

    Secrets are listed by name only.
    """
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
    """Return whether a source is a file: a `Path`, a text with a slash, or one that ends ".py"."""
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
        raise InvalidArguments(tool, {reserved[0]: "is not allowed; no argument starts with '@'"})
    return value


def require_timeout(timeout_s: float | None) -> None:
    """Raise `InvalidRequest` unless it is None or a number of seconds."""
    require_number("timeout_s", timeout_s, at_least=0.0)
