"""Microsoft Agent Framework on the kernel.

    from autogen_aios.agent_framework import AIOSChatClient

    agent = Agent(AIOSChatClient(), instructions="...", tools=[...])

`AIOSChatClient` has the framework's own layers around it (function calls,
middleware, telemetry); `RawAIOSChatClient` is without them. Every call of the
model is a syscall; cancelling the task, or closing the stream, frees its slot.

Whose call it is: the agent named in `client_kwargs={"aios": {"agent": ...}}` or in the
options (`default_options={"aios": ...}`), then on the client, else the agent object
whose method is running, and else the asyncio task. `group`, `priority`, `weight` and
`budget` go the same way.
"""

from __future__ import annotations

import inspect
import json
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
from typing import Any, ClassVar, Final, Literal

from aios_core import (
    Agent,
    Budget,
    Completion,
    Delta,
    FinishReason,
    Kernel,
    ToolCall,
    ToolSpec,
    Usage,
    errors,
)
from aios_core import Message as KernelMessage
from aios_core.adapting import (
    AgentDirectory,
    AgentSettings,
    Caller,
    ErrorNames,
    adefault_kernel,
    ahold,
    current_caller,
    enclosing,
    read_options,
    read_response_format,
    read_tool_choice,
    served_model,
)
from aios_core.errors import InvalidRequest
from autogen_aios.missing import missing
from autogen_aios.whose import read_aios

try:
    from agent_framework import (
        BaseAgent,
        BaseChatClient,
        ChatMiddlewareLayer,
        ChatResponse,
        ChatResponseUpdate,
        Content,
        FunctionInvocationLayer,
        FunctionTool,
        Message,
        ResponseStream,
        UsageDetails,
    )
    from agent_framework.exceptions import (
        ChatClientContentFilterException,
        ChatClientException,
        ChatClientInvalidAuthException,
        ChatClientInvalidRequestException,
    )
    from agent_framework.observability import ChatTelemetryLayer
except ModuleNotFoundError as exc:
    raise missing(__name__, exc, "agent-framework") from exc

__all__ = ["AIOSChatClient", "RawAIOSChatClient"]

directory: Final[AgentDirectory] = AgentDirectory()

#: Lets kernel errors out of a block under the framework's names too.
translated: Final = ErrorNames(
    [
        (errors.ContentFiltered, ChatClientContentFilterException),
        (errors.InvalidRequest, ChatClientInvalidRequestException),
        (errors.AuthenticationFailed, ChatClientInvalidAuthException),
        (errors.PermissionRefused, ChatClientInvalidAuthException),
        (errors.AccessDenied, ChatClientInvalidAuthException),
        (errors.KernelError, ChatClientException),
    ]
).both
# Content that no model is told: the framework's own state.
_NOT_SAID: Final = frozenset({"function_approval_request", "function_approval_response", "usage"})
_OWNER: Final = "aios_owner"  # under which a call's agent object travels through the layers
# Whose call it is: an agent that was given or a caller, and what its agent is spawned with.
Asker = tuple[Agent | Caller, AgentSettings]
_FINISH_REASONS: Final[
    Mapping[FinishReason, Literal["stop", "length", "tool_calls", "content_filter"]]
] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
}
# Options that concern a provider's service, or are read elsewhere.
_NOT_OURS: Final = frozenset(
    {"aios", "allow_multiple_tool_calls", "conversation_id", "instructions", "response_format"}
    | {"tool_choice", "tools"}
)


class RawAIOSChatClient(BaseChatClient[Any]):
    """A chat client that runs on the kernel, without layers around it.

    Errors are the kernel's, and the framework's `ChatClientException` as well.

    Args:
        model: one that a core serves; None for the kernel's default.
        agent: whose calls these are, by name or as an agent of the kernel; None: found.
        group: the agent's privilege group; None for the kernel's default.
        priority: of the agent; smaller is more urgent.
        weight: the agent's share of its group's service.
        budget: what the agent may spend; a `Budget` or its fields.
        kernel: None for the embedded kernel of this process.
        is_substitute: whether a model that no core serves is answered by the default one.
        settings: of the framework's own base class.
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
        said = {"group": group, "priority": priority, "weight": weight, "budget": budget}
        self._settings = AgentSettings().updated(said)
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
                asker = self.asker(options, kwargs)  # here: a stream may be read elsewhere
            updates = self._stream(messages, options, asker)
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
                agent = await self.hold(stack, *self.asker(options, kwargs))
                completion = await agent.llm.agenerate(**request)
        return _response(completion, options.get("response_format"))

    async def _stream(
        self,
        messages: Sequence[Message],
        options: Mapping[str, Any],
        asker: Asker,
    ) -> AsyncIterable[ChatResponseUpdate]:
        untangle_streams()
        with translated(), ExitStack() as stack:  # left half-read, it has nothing to await
            request = await self._request(messages, options)
            agent = await self.hold(stack, *asker)
            deltas = stack.enter_context(closing(agent.llm.astream(**request)))
            calls: dict[int, str] = {}  # the id of each call, by its index
            async for delta in deltas:
                if delta:
                    yield ChatResponseUpdate(
                        contents=list(_contents(delta, calls)), role="assistant"
                    )
            yield _last_update(deltas.completion)

    # --- what a call says to the kernel -------------------------------------------------------

    async def _request(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        said = {key: value for key, value in options.items() if value is not None}
        open_options = {key: value for key, value in said.items() if key not in _NOT_OURS}
        known, rest = read_options({"model": self.model, **open_options})
        if self._is_substitute:
            kernel = self._kernel or await adefault_kernel()
            known["model"] = served_model(kernel, known.get("model"))
        if "allow_multiple_tool_calls" in said:
            known["parallel_tool_calls"] = said["allow_multiple_tool_calls"]
        tools = [_tool(tool) for tool in said.get("tools") or ()]
        return {
            **known,
            "messages": [*instructed(said), *to_messages(messages)],
            "tools": tools,
            "tool_choice": _tool_choice(said.get("tool_choice"), [tool.name for tool in tools]),
            "response_format": read_response_format(_format(said.get("response_format"))),
            "extra": rest,
        }

    # --- whose call it is ---------------------------------------------------------------------

    def asker(self, options: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Asker:
        """Find whose call it is that is made on this stack."""
        named, said = read_aios(options.get("aios"), kwargs.get("aios"))
        settings = self._settings.updated(said)
        named = named or self._agent
        if isinstance(named, Agent):
            return named, settings
        owner = kwargs.get(_OWNER) or enclosing((BaseAgent,))
        if named:
            return Caller.named(str(named), settings.group), settings
        if owner is not None:
            return Caller.of_object(owner, owner.name or owner.id), settings
        return current_caller(), settings

    async def hold(self, stack: ExitStack, asker: Agent | Caller, settings: AgentSettings) -> Agent:
        """The agent of a call, until the stack unwinds."""
        if isinstance(asker, Agent):
            return asker
        kernel = self._kernel or await adefault_kernel()
        return await ahold(stack, directory, kernel, asker, settings)


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
        """See the framework's; here, on the agent's own stack, it is noted whose call it is."""
        return super().get_response(*args, **_with_owner(kwargs))


def noting_the_agent(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """A client's `get_response` that notes whose call it is, while the agent is on the stack."""

    def get_response_noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        return get_response(self, *args, **_with_owner(kwargs))

    return get_response_noting


def _with_owner(kwargs: dict[str, Any]) -> dict[str, Any]:
    if (owner := enclosing((BaseAgent,))) is None:
        return kwargs
    return {**kwargs, "client_kwargs": {_OWNER: owner, **(kwargs.get("client_kwargs") or {})}}


# --- streams that are dropped --------------------------------------------------------------------


def untangle_streams() -> None:
    """Let the streams around this call be gone as soon as they are dropped, and its slot with them.

    The framework's telemetry hangs a hook on each stream that refers to the stream itself, so
    that only a garbage collection would find it. From here on the hook refers to it weakly: it
    is run by the stream alone. To be called while the streams are read.
    """
    for stream in _being_read():
        for hook in getattr(stream, "_cleanup_hooks", ()):
            for cell in getattr(hook, "__closure__", None) or ():
                with suppress(ValueError):  # an empty cell
                    if cell.cell_contents is stream:
                        cell.cell_contents = weakref.proxy(stream)


def _being_read() -> Iterator[Any]:
    """The streams whose next update is asked for on this stack."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_name == "__anext__" else None
        if isinstance(owner, ResponseStream):
            yield owner
        frame = frame.f_back


# --- translation ---------------------------------------------------------------------------------


def instructed(options: Mapping[str, Any]) -> Iterator[KernelMessage]:
    """The instructions among a call's options, which a client puts first."""
    if instructions := options.get("instructions"):
        yield KernelMessage("system", instructions)


def to_messages(messages: Sequence[Message]) -> Iterator[KernelMessage]:
    """The framework's messages as the kernel's. Raises `InvalidRequest`, naming the position."""
    for position, message in enumerate(messages):
        try:
            yield from _message(message)
        except InvalidRequest as exc:
            raise InvalidRequest(f"message {position}: {exc}") from exc


def _message(message: Message) -> Iterator[KernelMessage]:
    """One of theirs is one of ours, but each result of a function is one by itself."""
    parts: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    thoughts: list[Content] = []
    for content in message.contents:
        match content.type:
            case "function_call":
                calls.append(_call(content))
            case "function_result":
                yield _result(content)
            case "text_reasoning":
                thoughts.append(content)
            case kind if kind not in _NOT_SAID:
                parts.append(_part(content))
            case _:
                pass
    if parts or calls or thoughts:
        yield _said(message, parts, calls, thoughts)


def _said(
    message: Message,
    parts: Sequence[Mapping[str, Any]],
    calls: Sequence[ToolCall],
    thoughts: Sequence[Content],
) -> KernelMessage:
    is_text = all(part["type"] == "text" for part in parts)
    details = [json.loads(one.protected_data) for one in thoughts if one.protected_data]
    signed = [block for one in details for block in (one if isinstance(one, list) else [one])]
    return KernelMessage(
        str(message.role),  # type: ignore[arg-type] # checked there
        "".join(part["text"] for part in parts) if is_text else "",
        tuple(calls),
        name=message.author_name if message.role != "tool" else None,
        parts=() if is_text else tuple(parts),
        reasoning="".join(one.text or "" for one in thoughts),
        thinking=tuple(signed),
        thinking_key="reasoning_details",
    )


def _part(content: Content) -> dict[str, Any]:
    """A part of a message in OpenAI's format."""
    match content.type, (content.media_type or "").partition("/")[0]:
        case "text", _:
            return {"type": "text", "text": content.text or ""}
        case (("uri" | "data"), "image"):
            detail = (content.additional_properties or {}).get("detail")
            more = {"detail": detail} if detail else {}
            return {"type": "image_url", "image_url": {"url": content.uri, **more}}
        case (("uri" | "data"), "audio"):
            kind = str(content.media_type).partition("/")[2].removeprefix("x-")
            data = str(content.uri).partition("base64,")[2] or content.uri
            return {"type": "input_audio", "input_audio": {"data": data, "format": kind}}
        case (("uri" | "data"), _):
            name = (content.additional_properties or {}).get("filename") or "file"
            return {"type": "file", "file": {"filename": name, "file_data": content.uri}}
        case "hosted_file", _:
            return {"type": "file", "file": {"file_id": content.file_id}}
        case kind, _:
            allowed = "texts, data, URIs, hosted files, reasoning, function calls and results"
            raise InvalidRequest(f"content of type {kind!r}; allowed: {allowed}")


def _call(content: Content) -> ToolCall:
    arguments = content.arguments
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall(content.call_id or "", content.name or "", arguments)


def _result(content: Content) -> KernelMessage:
    parts = [_part(item) for item in content.items or ()]
    if all(part["type"] == "text" for part in parts):
        text = "\n".join(part["text"] for part in parts) if parts else _result_text(content)
        return KernelMessage("tool", text, tool_call_id=content.call_id)
    return KernelMessage("tool", tool_call_id=content.call_id, parts=tuple(parts))


def _result_text(content: Content) -> str:
    if content.result is None:
        return str(content.exception or "")
    return content.result if isinstance(content.result, str) else json.dumps(content.result)


def _tool(tool: Any) -> ToolSpec:
    return ToolSpec.from_dict(
        tool.to_json_schema_spec() if isinstance(tool, FunctionTool) else tool
    )


def _tool_choice(choice: Any, names: Sequence[str]) -> Any:
    if isinstance(choice, Mapping):
        name = choice.get("required_function_name")
        choice = {"name": name} if name else choice.get("mode")
    return read_tool_choice(choice, names) if names else None


def _format(wanted: Any) -> Any:
    """The framework also takes a bare JSON schema for an answer's format."""
    is_openai = isinstance(wanted, Mapping) and wanted.get("type") in {
        "json_object",
        "json_schema",
        "text",
    }
    if isinstance(wanted, Mapping) and not is_openai:
        return {"type": "json_schema", "json_schema": {"schema": dict(wanted)}}
    return wanted


def _response(completion: Completion, response_format: Any) -> ChatResponse:
    return ChatResponse(
        messages=[
            Message("assistant", _answer_contents(choice.message))
            for choice in completion.all_choices
        ],
        response_id=completion.id,
        model=completion.model,
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        usage_details=_usage(completion.usage),
        response_format=response_format,
        additional_properties=_properties(completion),
    )


def _answer_contents(message: KernelMessage) -> list[Content]:
    contents = []
    if message.thinking or message.reasoning:
        signed = json.dumps([dict(one) for one in message.thinking]) if message.thinking else None
        contents.append(
            Content.from_text_reasoning(text=message.reasoning or None, protected_data=signed)
        )
    if message.content:
        contents.append(Content.from_text(message.content))
    if message.refusal:
        contents.append(_refusal(message.refusal))
    contents += [
        Content.from_function_call(call.id, call.name, arguments=call.arguments or "{}")
        for call in message.tool_calls
    ]
    return contents


def _refusal(text: str) -> Content:
    return Content.from_text(text, additional_properties={"model_output": "refusal"})


def _properties(completion: Completion) -> dict[str, Any]:
    """What the framework has no field for."""
    said = {
        "logprobs": completion.logprobs,
        "system_fingerprint": completion.fingerprint,
        "native_finish_reason": completion.backend_finish_reason,
    }
    return {key: value for key, value in said.items() if value is not None}


def _contents(delta: Delta, calls: dict[int, str]) -> Iterator[Content]:
    """What a step adds. Fragments of one call share their id, by which the framework joins them."""
    if delta.reasoning or delta.thinking:
        signed = json.dumps([dict(one) for one in delta.thinking]) if delta.thinking else None
        yield Content.from_text_reasoning(text=delta.reasoning or None, protected_data=signed)
    if delta.text:
        yield Content.from_text(delta.text)
    if delta.refusal:
        yield _refusal(delta.refusal)
    for part in delta.tool_calls:
        call_id = calls.setdefault(part.index, part.id or f"call_{part.index}")
        yield Content.from_function_call(call_id, part.name or "", arguments=part.arguments)


def _last_update(completion: Completion) -> ChatResponseUpdate:
    return ChatResponseUpdate(
        contents=[Content.from_usage(_usage(completion.usage))],
        role="assistant",
        model=completion.model,
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        response_id=completion.id,
        additional_properties=_properties(completion),
    )


def _usage(usage: Usage) -> UsageDetails:
    return UsageDetails(
        input_token_count=usage.input_tokens,
        output_token_count=usage.output_tokens,
        total_token_count=usage.total_tokens,
        cache_read_input_token_count=usage.cached_tokens,
        cache_creation_input_token_count=usage.cache_write_tokens,
        reasoning_output_token_count=usage.reasoning_tokens,
    )
