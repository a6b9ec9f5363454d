"""The syscall ABI: what an agent may ask, and the life of one request.

A request describes what is wanted and never changes. A `Syscall` wraps it with what
the kernel learns while serving it. All legal changes of state are in
`TRANSITIONS`; anything else is a `KernelBug`.

    READY ──> RUNNING ──> DONE | FAILED | CANCELLED
      ^         │  ^
      │ retry   v  │ resume
      └──── SUSPENDED        (preempted or frozen; holds a snapshot, waits for its turn)
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from operator import attrgetter, is_
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from aios_core.errors import InvalidRequest, KernelBug
from aios_core.messages import (
    Completion,
    Message,
    ResponseFormat,
    Sampling,
    ToolChoice,
    ToolSpec,
    Usage,
    parse_messages,
    parse_tools,
    require_sendable,
)
from aios_core.messages.conversation import NO_USAGE, is_plain_ascii
from aios_core.messages.sampling import UNSET
from aios_core.permissions import Access, Resource, Right
from aios_core.reserved_options import require_free_extra
from aios_core.snapshot import Snapshot
from aios_core.untrusted.fields import CheckedFields, check_all, checks_itself

T = TypeVar("T")  # what a request is answered with


class Discloses(StrEnum):
    """The data of other agents that the answer to a request may contain."""

    NOTHING = "nothing"  # that it was done, or a figure of the change: sizes, numbers, counts
    CONTENT = "content"  # what others may have written or named: it is answered with labels


class Request(CheckedFields, Generic[T]):
    """A request of an agent to the kernel: a frozen dataclass, answered with a `T`.

    LLM requests wait for a slot of a core; those of the other managers are served
    by the one that lists them (`aios_core.manager.Manager`). Fields of a wrong type are refused
    when a request is built, see `aios_core.untrusted.fields`.
    """

    __slots__ = ()

    kind: ClassVar[str]  # such as "memory.write": the manager, and what it is to do
    is_guarded: ClassVar[bool] = False  # the runaway guard counts it, and its repeats
    discloses: ClassVar[Discloses | None] = None  # all of the kernel's own requests set it

    def access(self, identity: str) -> Access:
        """Describe the access that the request needs when the agent of that identity makes it."""
        raise NotImplementedError


def known_kinds() -> frozenset[str]:
    """The kinds of all requests that are defined, those of other people's managers included."""
    found, waiting = set(), list(Request.__subclasses__())
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        found.add(getattr(one, "kind", ""))
    return frozenset(found - {""})


@dataclass(frozen=True, slots=True)
class LLMGenerate(Request[Completion]):
    """Continue a conversation."""

    kind: ClassVar[str] = "llm.generate"
    discloses: ClassVar[Discloses | None] = Discloses.NOTHING
    is_guarded: ClassVar[bool] = True
    messages: tuple[Message, ...]
    model: str | None = None  # None: the kernel's default
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice | None = None  # None: unset, which is "auto"
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    sampling: Sampling = UNSET
    extra: Mapping[str, Any] = field(default_factory=dict)  # passed to the core's backend as is

    @checks_itself
    def __post_init__(self) -> None:
        extra, messages = cast(Any, self.extra), cast(Any, self.messages)
        is_unset = all(map(is_, _rest_of(self), _UNSET_REST)) and type(extra) is dict and not extra
        if is_unset and type(messages) is tuple and all(map(is_plain_ascii, messages)):
            return  # only texts, as in most requests: nothing is left to check
        check_all(self, LLMGenerate._check)

    def _check(self) -> None:
        if self.extra:
            require_free_extra(self.extra)
        self._require_unicode()

    def _require_unicode(self) -> None:
        """Refuse text that cannot be sent or stored, wherever it stands in the request."""
        for position, message in enumerate(self.messages):
            if not message.content.isascii():
                require_sendable(f"message {position}", message.content)
            if not message.is_plain:
                require_sendable(f"message {position}", message.to_dict())
        for tool in self.tools:
            require_sendable(f"tool {tool.name!r}", tool.to_dict())
        if self.response_format is not None:
            require_sendable("response_format", self.response_format.to_dict())
        for name, value in (
            ("stop", self.sampling.stop),
            ("logit_bias", self.sampling.logit_bias),
            ("model", self.model),
            ("tool_choice", self.tool_choice),
            ("extra", self.extra),
        ):
            if value:
                require_sendable(name, value)

    @property
    def chosen_tool(self) -> ToolChoice:
        """The tool choice in effect: "auto" if none was made."""
        return "auto" if self.tool_choice is None else self.tool_choice

    @property
    def last_text(self) -> str:
        """The text of the last message; "" if there is none."""
        return self.messages[-1].content if self.messages else ""

    def access(self, identity: str) -> Access:  # noqa: ARG002 - models are unowned
        """Return the access: to use a model."""
        return Access(self.kind, Right.EXECUTE, Resource("model", None, self.model or ""))

    def to_dict(self) -> dict[str, Any]:
        """Return the request as a JSON object, provided that `extra` is JSON."""
        form = self.response_format
        return {
            "messages": [message.to_dict() for message in self.messages],
            "model": self.model,
            "tools": [tool.to_dict() for tool in self.tools],
            "tool_choice": self.tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": None if form is None else asdict(form),
            "sampling": self.sampling.to_dict(),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LLMGenerate:
        """Read what `to_dict` returned. Raises `InvalidRequest` if the object is damaged."""
        try:
            form = raw["response_format"]
            return cls(
                messages=parse_messages(raw["messages"]),
                model=raw["model"],
                tools=parse_tools(raw["tools"]),
                tool_choice=raw["tool_choice"],
                parallel_tool_calls=raw["parallel_tool_calls"],
                response_format=None if form is None else ResponseFormat(**form),
                sampling=Sampling.from_dict(raw["sampling"]),
                extra=raw["extra"],
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise InvalidRequest(
                f"request: not what `LLMGenerate.to_dict` returns: {exc!r}"
            ) from exc


_rest_of: Final = attrgetter(
    "model", "tools", "tool_choice", "parallel_tool_calls", "response_format", "sampling"
)
_UNSET_REST: Final = (None, (), None, None, None, UNSET)


class SyscallState(StrEnum):
    """Where a syscall stands."""

    READY = "ready"  # waits for a slot, for the first time or to be tried again
    RUNNING = "running"  # holds a slot of a core
    SUSPENDED = "suspended"  # was preempted; waits for its next turn
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


_ENDS: Final = frozenset({SyscallState.DONE, SyscallState.FAILED, SyscallState.CANCELLED})
_STOPS: Final = frozenset({SyscallState.FAILED, SyscallState.CANCELLED})

TRANSITIONS: Final[Mapping[SyscallState, AbstractSet[SyscallState]]] = {
    SyscallState.READY: _STOPS | {SyscallState.RUNNING},
    SyscallState.RUNNING: _ENDS | {SyscallState.SUSPENDED, SyscallState.READY},
    SyscallState.SUSPENDED: _STOPS | {SyscallState.RUNNING},
    SyscallState.DONE: frozenset(),
    SyscallState.FAILED: frozenset(),
    SyscallState.CANCELLED: frozenset(),
}


@dataclass(slots=True, eq=False)
class Syscall:
    """One request on its way through the kernel. Times are seconds of the kernel's clock."""

    id: int
    pid: int
    request: LLMGenerate
    submitted_at: float
    deadline_at: float | None = None
    priority: int = 0  # smaller is more urgent
    state: SyscallState = SyscallState.READY
    queued_at: float = 0.0  # when it last began to wait
    waited_s: float = 0.0  # total time in READY or SUSPENDED, without the present wait
    running_s: float = 0.0  # total time in RUNNING, without the present run
    state_since: float = 0.0
    first_run_at: float | None = None
    finished_at: float | None = None
    core: str | None = None  # where it runs, or ran last
    num_tokens: int = 0  # tokens generated so far
    num_preemptions: int = 0
    num_attempts: int = 0
    snapshot: Snapshot | None = None
    usage: Usage = NO_USAGE

    def __repr__(self) -> str:
        core = f" on {self.core}" if self.core else ""
        return (
            f"<Syscall {self.id} of agent {self.pid}: {self.state}{core}, {self.num_tokens} tokens>"
        )

    def move_to(self, new: SyscallState, now: float) -> None:
        """Change state and account for the time spent in the old one.

        Raises `KernelBug` if the table forbids the move; nothing has changed then.
        """
        if new not in TRANSITIONS[self.state]:
            raise KernelBug(f"syscall {self.id}: {self.state} -> {new}")
        elapsed = now - self.state_since
        if self.state is SyscallState.RUNNING:
            self.running_s += elapsed
        else:
            self.waited_s += elapsed
        self.state = new
        self.state_since = now
