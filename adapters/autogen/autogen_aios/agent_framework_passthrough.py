"""Mode "passthrough" for Agent Framework's OpenAI clients.

`OpenAIChatClient` and `OpenAIChatCompletionClient` still send every request themselves;
function calls, middleware and telemetry stay the framework's. Each call waits for a slot
of its provider's model and is a syscall of the agent that makes it. If the kernel cancels the
syscall, the request is cancelled and the kernel's error is raised.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, aclosing
from functools import partial
from types import ModuleType
from typing import Any, Final

from agent_framework import ChatResponse, ChatResponseUpdate, Message, ResponseStream, UsageDetails

from aios_adapters import (
    AsyncScope,
    PassthroughCall,
    ProviderStream,
    apassthrough_call,
    aregister_provider_model,
    read_answer_limits,
    to_kernel_messages,
)
from aios_core import Usage
from aios_core.launch import Patches
from autogen_aios.agent_framework import (
    RawAIOSChatClient,
    free_dropped_streams,
    remember_caller,
    translated,
)
from autogen_aios.agent_framework_messages import to_instructions, to_messages

Options = Mapping[str, Any]
Updates = ResponseStream[ChatResponseUpdate, ChatResponse]

_CLASSES: Final = ("OpenAIChatClient", "OpenAIChatCompletionClient")
_OURS: Final = "aios"  # the option that names the agent of a call


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the requests of the chat clients in a module of `agent_framework_openai`."""
    for name in _CLASSES:
        if (client := getattr(module, name, None)) is not None:
            raw = getattr(module, f"Raw{name}")
            asking = _scheduled(raw._inner_get_response)  # noqa: SLF001 - the framework's own seam
            patches.replace(raw, "_inner_get_response", asking)
            patches.replace(client, "get_response", remember_caller(client.get_response))


def _scheduled(ask: Callable[..., Any]) -> Callable[..., Any]:
    def _inner_get_response(
        self: Any,
        *,
        messages: Sequence[Message],
        options: Options,
        stream: bool = False,
        **kwargs: Any,
    ) -> Awaitable[ChatResponse] | Updates:
        theirs = _without_ours(options)
        asking = partial(ask, self, messages=messages, stream=stream, **kwargs)
        asked = _Asked(asking, theirs, read_answer_limits(options))
        slot = _slot(self, messages, options, asked, kwargs)
        if not stream:
            return _answered(slot, asked)
        # This refuses wrong options now, sends nothing until it is read, and has the finalizer,
        # which parses the answer's format.
        finalizer = asked.begin()._finalizer  # noqa: SLF001 - the framework's own seam
        return ResponseStream(_streamed(slot, asked), finalizer=finalizer)

    return _inner_get_response


class _Asked:
    """One call of the framework's client, limited to what the agent's budget has left.

    Args:
        ask: the client's method, without the options.
        options: the program's options; those that the client removes are removed here too.
        limits: the answer limits in the options.
    """

    def __init__(
        self, ask: Callable[..., Any], options: Options, limits: Mapping[str, int | None]
    ) -> None:
        self.options = options
        self.limits = limits
        self._ask = ask
        self._sent = options
        self._begun: Any = None

    def begin(self) -> Any:
        """Return the result of the client's own method for the options that are sent now."""
        self._begun = begun = self._ask(options=self._sent)
        return begun

    def within(self, slot: PassthroughCall) -> Any:
        """Return the options with the limit of a slot, if the program set none."""
        limited = slot.limiting(self.options, own=self.limits["max_tokens"])
        # An unread stream must be freed when it is dropped, so keep no reference to a part of it.
        begun, self._begun = self._begun, None
        if limited == dict(self.options) and begun is not None:
            return begun
        self._sent = self.options if limited == dict(self.options) else limited
        return self._ask(options=self._sent)

    def pieces(self, slot: PassthroughCall) -> ProviderStream[ChatResponseUpdate]:
        """Return the answer's stream, within a slot."""

        def begin() -> AsyncGenerator[ChatResponseUpdate]:
            return _read(self.within(slot))

        return slot.iterate(begin(), begin)

    def use_up(self) -> None:
        """Remove from the program's options those that the client removed from its own copy."""
        if isinstance(self.options, dict):
            for key in self.options.keys() - self._sent.keys():
                del self.options[key]


async def _answered(
    entering: AbstractAsyncContextManager[PassthroughCall], asked: _Asked
) -> ChatResponse:
    with translated():
        async with entering as slot:
            response: ChatResponse = await slot.aattempt(lambda: asked.within(slot))
            slot.record_usage(_usage([response.usage_details]), response.text)
            return response


async def _streamed(
    entering: AbstractAsyncContextManager[PassthroughCall], asked: _Asked
) -> AsyncGenerator[ChatResponseUpdate]:
    updates: list[ChatResponseUpdate] = []
    free_dropped_streams()
    with translated():
        async with (
            entering as slot,
            aclosing(asked.pieces(slot)) as pieces,
        ):
            async for update in pieces:
                updates.append(update)
                yield update
            counted = [content.usage_details for update in updates for content in update.contents]
            slot.record_usage(_usage(counted), "".join(update.text for update in updates))


async def _read(updates: Updates) -> AsyncGenerator[ChatResponseUpdate]:
    """Yield the updates of a stream, and close it with this generator."""
    async with updates:
        async for update in updates:
            yield update


def _slot(
    client: Any,
    messages: Sequence[Message],
    options: Options,
    asked: _Asked,
    kwargs: Mapping[str, Any],
) -> AbstractAsyncContextManager[PassthroughCall]:
    model = str(options.get("model") or client.model)
    known = to_kernel_messages(messages, to_messages)
    request: dict[str, Any] = {"messages": [*to_instructions(options), *known], **asked.limits}

    def use_up(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            asked.use_up()
            if isinstance(options, dict) and asked.options is not options:
                for key in options.keys() - asked.options.keys() - {_OURS}:
                    del options[key]  # the client has removed it from its copy

    with translated():
        ref = RawAIOSChatClient().agent_ref(options, kwargs)  # now: a stream may be read elsewhere

    async def enter(stack: AsyncExitStack) -> PassthroughCall:
        kernel = await aregister_provider_model(model)
        stack.push(use_up)
        agent = await ref.hold(stack.enter_context(ExitStack()), kernel)
        return await stack.enter_async_context(apassthrough_call(agent, model, **request))

    return AsyncScope(enter)


def _without_ours(options: Options) -> Options:
    """Return the options for the framework's client; the given object if there are none of ours."""
    if _OURS not in options:
        return options
    return {key: value for key, value in options.items() if key != _OURS}


def _usage(counted: Iterable[UsageDetails | None]) -> Usage:
    usage = Usage()
    for took in counted:
        if took:
            usage += Usage(
                took.get("input_token_count") or 0,
                took.get("output_token_count") or 0,
                took.get("cache_read_input_token_count") or 0,
            )
    return usage
