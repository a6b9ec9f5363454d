"""The agent handle: what a developer writes code against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from aios_core.access import AccessHandle
from aios_core.accounting import Accounting, BudgetStatus
from aios_core.bridge import AsyncStream, Stream
from aios_core.checking import is_a, reads_arguments
from aios_core.core import PromptSize
from aios_core.embedding import Embed, Vector
from aios_core.errors import InvalidRequest
from aios_core.memory import Memory
from aios_core.messages import (
    GENERAL_CHOICES,
    Completion,
    ResponseFormat,
    Sampling,
    ToolChoice,
    parse_messages,
    parse_tools,
    require_integer,
    require_items,
    require_number,
)
from aios_core.options import (
    CallOptions,
    ChildOptions,
    Messages,
    RequestOptions,
    SamplingOptions,
    SubmitOptions,
    Tools,
)
from aios_core.process import AgentProcess, ProcessState
from aios_core.redaction import shown_repr
from aios_core.sampling import UNSET
from aios_core.storage import Storage
from aios_core.storage.semantic import Collections
from aios_core.syscalls import LLMGenerate, Request
from aios_core.tools import Tools as AgentTools

if TYPE_CHECKING:
    from pathlib import Path

    from aios_core.kernel import Kernel

T = TypeVar("T")


class Agent:
    """A process of the kernel, in the hands of its developer.

    Leave it with `exit` (or use it as a context manager): its calls are
    cancelled, its children exit, and what it held is freed.
    """

    def __init__(self, kernel: Kernel, process: AgentProcess) -> None:
        self._kernel = kernel
        self._process = process
        self.llm = LLM(kernel, process)
        self.port = AgentPort(kernel, process)
        self.access = AccessHandle(self.port)
        self.memory = Memory(self.port)
        self.tools = AgentTools(self.port)
        self.storage = Storage(self.port)
        self.collections = Collections(self.port)
        self.pending: tuple[Future[Completion], ...] = ()  # calls that it was loaded with

    def __repr__(self) -> str:
        return f"<Agent {self.pid} {shown_repr(self.name)}: {self.state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def name(self) -> str:
        return self._process.name

    @property
    def identity(self) -> str:
        """To whom its memory and files belong, also after its end; see `aios_core.identity`."""
        return self._process.identity

    @property
    def group(self) -> str:
        return self._process.group.name

    @property
    def state(self) -> ProcessState:
        return self._process.state

    @property
    def accounting(self) -> Accounting:
        """What the agent has taken so far; live, for reading only."""
        return self._process.accounting

    @property
    def accounting_with_descendants(self) -> Accounting:
        """The usage so far of the agent and all its descendants, exited ones included."""
        return self._process.accounting_with_descendants()

    @property
    def budget(self) -> BudgetStatus:
        """The budget of the agent and its descendants: limits, spent, reserved and left."""
        ends_at = self._process.ends_at
        left_s = None if ends_at is None else ends_at - self._kernel.time()
        return BudgetStatus.of(self._process.budget, wall_left_s=left_s)

    def spawn(self, name: str, **settings: Unpack[ChildOptions]) -> Agent:
        """Start a child of this agent; `Kernel.spawn` documents the arguments."""
        return self._kernel.spawn(name, parent=self.pid, **settings)

    async def aspawn(self, name: str, **settings: Unpack[ChildOptions]) -> Agent:
        """Start a child of this agent without blocking the event loop."""
        return await self._kernel.aspawn(name, parent=self.pid, **settings)

    def acting_for(self, other: Agent) -> Agent:
        """Return this agent as another uses it, for a store that serves several.

        Memory and files are this agent's. What is written carries the labels of both, and what is
        read marks the other. Of no use for longer than one piece of work.
        """
        if not is_a(other, Agent):
            raise InvalidRequest(f"other: got {shown_repr(other)}; allowed: an Agent")
        if other._kernel is not self._kernel or other.pid == self.pid:
            return self
        stand_in = Agent(self._kernel, self._process.acting_for(other._process))
        stand_in.llm = self.llm
        return stand_in

    def exit(self) -> None:
        """End the agent and its children; their calls are cancelled. Idempotent."""
        self._kernel.exit(self.pid)

    def exit_soon(self) -> None:
        """The same, waiting for nothing: from any thread, a finalizer's too."""
        self._kernel.exit_soon(self.pid)

    def freeze(self) -> None:
        """Take the agent off the cores until `thaw`; returns once it holds no slot.

        Its callers go on waiting. A call on a core that cannot be preempted runs to its end.
        """
        self._kernel.freeze(self.pid)

    def thaw(self) -> None:
        """Let a frozen agent go on."""
        self._kernel.thaw(self.pid)

    def save(self, directory: str | Path) -> None:
        """Freeze the agent and write it to a directory, its generations in flight included.

        `Kernel.load_agent` brings it back, also in another process. `Kernel.save_agent` says
        what is refused.
        """
        self._kernel.save_agent(self.pid, directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.exit()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._kernel.aexit(self.pid)


@dataclass(frozen=True, slots=True)
class AgentPort:
    """One agent's way into the kernel (`aios_core.manager.Port`)."""

    _kernel: Kernel
    _process: AgentProcess

    @property
    def identity(self) -> str:
        return self._process.identity

    def call(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make a request and wait for its answer."""
        return self._kernel.perform(self._process, request, timeout_s=timeout_s)

    async def acall(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """The same on any event loop. Cancelling the await cancels the request."""
        return await self._kernel.aperform(self._process, request, timeout_s=timeout_s)


@dataclass(frozen=True, slots=True)
class LLM:
    """The LLM syscalls of one agent. The arguments of all methods are those of `request`.

    All raise, besides what a core reports: `InvalidRequest` (malformed, unknown
    model, prompt too long), `Overloaded`, `BudgetExceeded`, `RunawayStopped`,
    `DeadlineExceeded`, `SyscallCancelled`, `KernelClosed`; the blocking ones
    `WouldBlock` when called on the kernel's own loop.
    """

    _kernel: Kernel
    _process: AgentProcess

    def generate(self, messages: Messages, **arguments: Unpack[CallOptions]) -> Completion:
        """Continue the conversation, and wait for the whole answer."""
        request, options = _split(messages, arguments)
        return self._kernel.call(self._process, request, **options)

    async def agenerate(self, messages: Messages, **arguments: Unpack[CallOptions]) -> Completion:
        """Continue the conversation. Cancelling the await cancels the call."""
        request, options = _split(messages, arguments)
        return await self._kernel.acall(self._process, request, **options)

    def embed(self, texts: Sequence[str], *, timeout_s: float | None = None) -> tuple[Vector, ...]:
        """The vectors of texts, of length 1: near in meaning is near in cosine.

        Raises `RateLimited` and `BackendError` besides, if the embedder does.
        """
        return self._kernel.perform(self._process, Embed(texts), timeout_s=timeout_s)

    async def aembed(
        self, texts: Sequence[str], *, timeout_s: float | None = None
    ) -> tuple[Vector, ...]:
        """The same on any event loop. Cancelling the await cancels the request."""
        request = Embed(texts)
        return await self._kernel.aperform(self._process, request, timeout_s=timeout_s)

    def stream(self, messages: Messages, **arguments: Unpack[CallOptions]) -> Stream:
        """Continue the conversation, delta by delta."""
        request, options = _split(messages, arguments)
        return self._kernel.stream(self._process, request, **options)

    def astream(self, messages: Messages, **arguments: Unpack[CallOptions]) -> AsyncStream:
        """Continue the conversation, delta by delta, on the running event loop."""
        request, options = _split(messages, arguments)
        return self._kernel.astream(self._process, request, **options)

    def measure(self, messages: Messages, **arguments: Unpack[RequestOptions]) -> PromptSize:
        """How many tokens the prompt has, and how many the model takes. Asks no model.

        Raises `InvalidRequest`, `KernelClosed` and, on the kernel's own loop, `WouldBlock`.
        """
        return self._kernel.measure(request(messages, **arguments))

    async def ameasure(self, messages: Messages, **arguments: Unpack[RequestOptions]) -> PromptSize:
        """The same on any event loop."""
        return await self._kernel.ameasure(request(messages, **arguments))


def request(
    messages: Messages,
    *,
    model: str | None = None,
    tools: Tools = (),
    tool_choice: ToolChoice | None = None,
    parallel_tool_calls: bool | None = None,
    response_format: ResponseFormat | Mapping[str, Any] | None = None,
    stop: str | Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    **sampling: Unpack[SamplingOptions],
) -> LLMGenerate:
    """Build a checked LLM request. Settings that are None are not sent to the backend.

    Args:
        messages: a text, or messages, also in OpenAI's format.
        model: one that a core serves; None for the kernel's default.
        tools: offered to the model; OpenAI's format is accepted.
        tool_choice: "auto", "none", "required", the name of the tool that must be called, or
            another choice in OpenAI's format.
        parallel_tool_calls: whether one answer may hold several calls.
        response_format: a `ResponseFormat`, OpenAI's `response_format`, or a JSON schema that
            the answer must satisfy.
        stop: texts before which the answer ends.
        extra: passed to the core's backend unchanged. A key that has an argument of its own
            is refused.
        **sampling: the fields of `Sampling`: `max_tokens` of the answer, `temperature` (0 is
            greedy), `top_p`, `top_k`, `seed`, `n` answers to one prompt, and so on.

    Raises:
        InvalidRequest: names what was wrong and what would be right.
    """
    # What is left out is not looked at: most calls leave out nearly everything.
    offered = () if type(tools) is tuple and not tools else parse_tools(tools)
    if tool_choice is not None:
        _require_type("tool_choice", tool_choice, str | Mapping)
        _require_known_choice(tool_choice, [tool.name for tool in offered])
    if extra is not None:
        _require_type("extra", extra, Mapping)
    return LLMGenerate(
        messages=parse_messages(messages),
        model=model,
        tools=offered,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel_tool_calls,
        response_format=None if response_format is None else _read_format(response_format),
        sampling=_read_sampling(stop, sampling) if sampling or stop is not None else UNSET,
        extra=dict(extra or {}),
    )


@reads_arguments
def _require_known_choice(choice: ToolChoice, names: Sequence[str]) -> None:
    if isinstance(choice, str) and choice not in GENERAL_CHOICES and choice not in names:
        raise InvalidRequest(
            f"tool_choice: got {shown_repr(choice)}; allowed: 'auto', 'none', 'required' or one of "
            f"{names}"
        )
    if choice == "required" and not names:
        raise InvalidRequest("tool_choice is 'required' and no tool is offered")


@reads_arguments
def _read_format(response_format: ResponseFormat | Mapping[str, Any]) -> ResponseFormat:
    """A response format in OpenAI's form, or a plain JSON schema."""
    if isinstance(response_format, ResponseFormat):
        return response_format
    if ResponseFormat.is_openai(response_format):
        return ResponseFormat.from_dict(response_format)
    return ResponseFormat(response_format)


def _read_sampling(stop: str | Sequence[str] | None, settings: Mapping[str, Any]) -> Sampling:
    known = Sampling.__dataclass_fields__
    if unknown := [name for name in settings if name not in known]:
        raise TypeError(f"unexpected argument {unknown[0]!r}; did you mean a key of `extra`?")
    stops = (stop,) if isinstance(stop, str) else tuple(require_items("stop", stop or ()))
    return Sampling(stop=stops, **settings)


@reads_arguments
def _require_type(name: str, value: object, kind: Any) -> None:
    if not isinstance(value, kind):
        raise InvalidRequest(f"{name}: got {shown_repr(value)}; allowed: {kind}")


def _split(messages: Messages, options: CallOptions) -> tuple[LLMGenerate, SubmitOptions]:
    """Separate the request from what concerns its way through the kernel."""
    timeout_s, priority = options.pop("timeout_s", None), options.pop("priority", None)
    if timeout_s is not None:
        require_number("timeout_s", timeout_s, at_least=0.0)
    if priority is not None:
        require_integer("priority", priority)
    asked: RequestOptions = options
    return request(messages, **asked), {"timeout_s": timeout_s, "priority": priority}
