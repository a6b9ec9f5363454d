"""Run Microsoft Agent Framework on the kernel.

    from autogen_aios.agent_framework import AIOSChatClient

    agent = Agent(AIOSChatClient(), instructions="...", tools=[...])

`AIOSChatClient` has the framework's own layers around it (function calls,
middleware, telemetry); `RawAIOSChatClient` has none. Every LLM call is a
syscall; cancelling the task, or closing the stream, frees its slot.

The agent of a call is the first of: the one named in `client_kwargs={"aios": {"agent": ...}}`
or in the options (`default_options={"aios": ...}`), the one given to the client, the agent
object that has a method on the call stack, the asyncio task. `group`, `priority`, `weight` and
`budget` are set in the same places.
"""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Any, ClassVar, Final

from aios_adapters import (
    AgentDirectory,
    AgentRef,
    AgentSettings,
    Caller,
    ErrorMapping,
    adefault_kernel,
    as_chat_options,
    current_caller,
    enclosing_instance,
    read_options,
    read_response_format,
    resolve_model,
)
from aios_core import (
    Agent,
    Budget,
    Kernel,
    errors,
)
from aios_core.launch import give_notice
from autogen_aios.agent_options import parse_agent_options
from autogen_aios.missing_extra import missing_extra_error

try:
    from agent_framework import (
        BaseAgent,
        BaseChatClient,
        ChatMiddlewareLayer,
        ChatResponse,
        ChatResponseUpdate,
        FunctionInvocationLayer,
        Message,
        ResponseStream,
    )
    from agent_framework.exceptions import (
        ChatClientContentFilterException,
        ChatClientException,
        ChatClientInvalidAuthException,
        ChatClientInvalidRequestException,
    )
    from agent_framework.observability import ChatTelemetryLayer

    from autogen_aios.agent_framework_messages import (
        to_contents,
        to_format,
        to_instructions,
        to_last_update,
        to_messages,
        to_response,
        to_tool_choice,
        to_tools,
    )
except ModuleNotFoundError as exc:
    raise missing_extra_error(__name__, exc, "agent-framework") from exc

__all__ = ["AIOSChatClient", "RawAIOSChatClient"]

log = logging.getLogger(__name__)

directory: Final[AgentDirectory] = AgentDirectory()

#: Raises kernel errors that leave a block under the framework's names as well.
translated: Final = ErrorMapping(
    [
        (errors.ContentFiltered, ChatClientContentFilterException),
        (errors.InvalidRequest, ChatClientInvalidRequestException),
        (errors.AuthenticationFailed, ChatClientInvalidAuthException),
        (errors.PermissionRefused, ChatClientInvalidAuthException),
        (errors.AccessDenied, ChatClientInvalidAuthException),
        (errors.KernelError, ChatClientException),
    ]
).as_framework_error
_OWNER: Final = "aios_owner"  # the key that carries a call's agent object through the layers
# Options of a provider's service, and those that are read elsewhere.
_NOT_OURS: Final = frozenset(
    {"aios", "allow_multiple_tool_calls", "instructions", "response_format", "tool_choice", "tools"}
)


class RawAIOSChatClient(BaseChatClient[Any]):
    """A chat client that runs on the kernel, without the framework's layers around it.

    Errors are instances of the kernel's classes and of the framework's `ChatClientException`.

    Args:
        model: a model that a core serves; None for the kernel's default.
        agent: the agent that makes the calls, as a name or an agent of the kernel; None to find
            it from the caller.
        group: the agent's privilege group; None for the kernel's default.
        priority: the agent's priority; smaller is more urgent.
        weight: the agent's share of its group's service.
        budget: what the agent may spend, as a `Budget` or its fields.
        kernel: None for the default kernel of this process.
        is_substitute: whether the default model answers for a model that no core serves.
        settings: arguments of the framework's own base class.
    """

    OTEL_PROVIDER_NAME: ClassVar[str] = "aios"

    def __init__(
        self,
        *,
        model: str | None = None,
        agent: str | Agent | None = None,
        group: str | None = None,
        priority: int | None = None,
        weight: float = 1.0,
        budget: Budget | Mapping[str, Any] | None = None,
        kernel: Kernel | None = None,
        is_substitute: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.model = model
        self._agent = agent
        given = {"group": group, "priority": priority, "weight": weight, "budget": budget}
        self._settings = AgentSettings().updated(given)
        self._kernel = kernel
        self._is_substitute = is_substitute

    def _inner_get_response(
        self,
        *,
        messages: Sequence[Message],
        stream: bool,
        options: Mapping[str, Any],
        **kwargs: Any,
    ) -> Awaitable[ChatResponse] | ResponseStream[ChatResponseUpdate, ChatResponse]:
        if stream:
            with translated():
                ref = self.agent_ref(options, kwargs)  # now: a stream may be read elsewhere
            updates = self._stream(messages, options, ref)
            form = options.get("response_format")
            return self._build_response_stream(updates, response_format=form)
        return self._answer(messages, options, kwargs)

    async def _answer(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        kwargs: Mapping[str, Any],
    ) -> ChatResponse:
        with translated():
            request = await self._request(messages, options)
            with ExitStack() as stack:
                agent = await self.agent_ref(options, kwargs).hold(stack)
                completion = await agent.llm.agenerate(**request)
        return to_response(completion, options.get("response_format"))

    async def _stream(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        ref: AgentRef,
    ) -> AsyncIterable[ChatResponseUpdate]:
        free_dropped_streams()
        with translated(), ExitStack() as stack:  # a half-read stream must have nothing to await
            request = await self._request(messages, options)
            agent = await ref.hold(stack)
            deltas = stack.enter_context(closing(agent.llm.astream(**request)))
            calls: dict[int, str] = {}  # the id of each call, by its index
            async for delta in deltas:
                if delta:
                    yield ChatResponseUpdate(
                        contents=list(to_contents(delta, calls)), role="assistant"
                    )
            yield to_last_update(deltas.completion)

    # --- requests -----------------------------------------------------------------------------

    async def _request(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        given = {key: value for key, value in options.items() if value is not None}
        open_options = {key: value for key, value in given.items() if key not in _NOT_OURS}
        if self._is_substitute:
            open_options = _as_chat(open_options)
        open_options.pop("conversation_id", None)
        known, rest = read_options({"model": self.model, **open_options})
        if self._is_substitute:
            kernel = self._kernel or await adefault_kernel()
            known["model"] = resolve_model(kernel, known.get("model"))
        if "allow_multiple_tool_calls" in given:
            known["parallel_tool_calls"] = given["allow_multiple_tool_calls"]
        tools = to_tools(given.get("tools") or (), given.get("tool_choice"))
        return {
            **known,
            "messages": [*to_instructions(given), *to_messages(messages)],
            "tools": tools,
            "tool_choice": to_tool_choice(given.get("tool_choice"), [tool.name for tool in tools]),
            "response_format": read_response_format(to_format(given.get("response_format"))),
            "extra": rest,
        }

    # --- the agent that makes a call ----------------------------------------------------------

    def agent_ref(self, options: Mapping[str, Any], kwargs: Mapping[str, Any]) -> AgentRef:
        """Find the agent of a call that is made on this stack.

        Args:
            options: the call's chat options.
            kwargs: the further arguments that the framework passes to its clients.
        """
        named, about = parse_agent_options(options.get("aios"), kwargs.get("aios"))
        agent = named or self._agent
        return AgentRef(
            directory,
            partial(_find, kwargs.get(_OWNER)),
            agent if isinstance(agent, Agent) or agent is None else str(agent),
            self._settings.updated(about),
            self._kernel,
        ).located()


def _find(owner: Any, name: str | None, settings: AgentSettings) -> tuple[Caller, AgentSettings]:
    if name:
        return Caller.named(name, settings.group), settings
    owner = owner or enclosing_instance((BaseAgent,))
    if owner is not None:
        return Caller.of_object(owner, owner.name or owner.id), settings
    return current_caller(), settings


def _as_chat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate options of the Responses API; give a notice for those without a counterpart."""
    translated_options, unused = as_chat_options(options)
    for name in unused:
        give_notice(
            log,
            (__name__, name),
            f"the option {name!r} of OpenAIChatClient is not sent: only the Responses API "
            "has it, and the kernel's cores use chat completions",
        )
    return translated_options


class AIOSChatClient(
    FunctionInvocationLayer[Any],
    ChatMiddlewareLayer[Any],
    ChatTelemetryLayer[Any],
    RawAIOSChatClient,
):
    """`RawAIOSChatClient` with function calls, middleware and telemetry.

    >>> agent = Agent(AIOSChatClient(), instructions="Answer in one word.")
    """

    def get_response(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as the framework's clients do, for the agent that is on the stack here."""
        return super().get_response(*args, **_with_owner(kwargs))


def remember_caller(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a client's `get_response` to pass on the agent, which is on the stack only there."""

    def get_response_with_owner(self: Any, *args: Any, **kwargs: Any) -> Any:
        return get_response(self, *args, **_with_owner(kwargs))

    return get_response_with_owner


def _with_owner(kwargs: dict[str, Any]) -> dict[str, Any]:
    if (owner := enclosing_instance((BaseAgent,))) is None:
        return kwargs
    return {**kwargs, "client_kwargs": {_OWNER: owner, **(kwargs.get("client_kwargs") or {})}}


# --- streams that are dropped --------------------------------------------------------------------


def free_dropped_streams() -> None:
    """Free the streams around this call, and their slots, as soon as they are dropped.

    The framework's telemetry adds a hook to each stream that refers to the stream itself, so
    that only a garbage collection would free it. This call makes the reference weak; only the
    stream runs the hook, so it exists then. Call this while the streams are read.
    """
    for stream in _being_read():
        for hook in getattr(stream, "_cleanup_hooks", ()):
            for cell in getattr(hook, "__closure__", None) or ():
                with suppress(ValueError):  # an empty cell
                    if cell.cell_contents is stream:
                        cell.cell_contents = weakref.proxy(stream)


def _being_read() -> Iterator[Any]:
    """Yield the streams that are being read on this stack."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_name == "__anext__" else None
        if isinstance(owner, ResponseStream):
            yield owner
        frame = frame.f_back
