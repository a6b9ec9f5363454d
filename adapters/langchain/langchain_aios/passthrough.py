"""Mode "passthrough": models of `langchain_openai` and `ChatAnthropic` keep provider and key.

The four methods that call the provider still make every call. Each call waits for a slot of its
provider's model and is a syscall of the agent that makes it. If the kernel cancels the syscall,
the call is cancelled and the kernel's error is raised (a blocking call runs to its end, and its
answer is dropped).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    contextmanager,
)
from functools import wraps
from types import ModuleType
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from aios_adapters import (
    AsyncScope,
    PassthroughCall,
    apassthrough_call,
    aregister_provider_model,
    passthrough_call,
    read_answer_limits,
    register_provider_model,
    to_kernel_messages,
)
from aios_core import Usage
from aios_core.launch import Patches
from langchain_aios import errors, translation
from langchain_aios.callers import RunManager, ref_for_run
from langchain_aios.model_methods import patch_entries

Limits = Mapping[str, int | None]

_CLASSES: Final = ("ChatOpenAI", "AzureChatOpenAI")
_BASE: Final = "BaseChatOpenAI"  # of both, and of other providers' classes (ChatDeepSeek, ...)


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of the chat models in a module of `langchain_openai`."""
    for name in (_BASE, *_CLASSES):
        owner = getattr(module, name, None)
        if owner is not None and owner.__module__ == module.__name__:
            _patch_class(owner, patches)


def patch_anthropic(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of `langchain_anthropic.ChatAnthropic`."""
    _patch_class(module.ChatAnthropic, patches)


def _patch_class(owner: Any, patches: Patches) -> None:
    for method in (*_answering(owner), *_streaming(owner)):
        original = getattr(owner, method.__name__)
        is_base = owner.__name__ == _BASE
        chosen = _unless_inner(method, original) if is_base else method
        patches.replace(owner, method.__name__, chosen)
    if owner.__name__ == _BASE or not hasattr(owner.invoke, "__wrapped__"):
        patch_entries(owner, patches)


def _answering(owner: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Build the methods of a class that answer as a whole, as external calls."""
    generate, agenerate = owner._generate, owner._agenerate  # noqa: SLF001 - what LangChain calls

    def _generate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        limits = _limits(self, kwargs)
        with provider_call(self, messages, run_manager, kwargs, limits) as slot:

            def ask() -> ChatResult:
                limited = slot.limiting(kwargs, own=limits["max_tokens"])
                result: ChatResult = generate(self, messages, stop, run_manager, **limited)
                return result

            result = slot.attempt(ask)
            _record_usage(slot, [generation.message for generation in result.generations])
            return result

    async def _agenerate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        limits = _limits(self, kwargs)
        async with aprovider_call(self, messages, run_manager, kwargs, limits) as slot:

            def ask() -> Awaitable[ChatResult]:
                limited = slot.limiting(kwargs, own=limits["max_tokens"])
                answer: Awaitable[ChatResult] = agenerate(
                    self, messages, stop, run_manager, **limited
                )
                return answer

            result = await slot.aattempt(ask)
            _record_usage(slot, [generation.message for generation in result.generations])
            return result

    return _generate, _agenerate


def _streaming(owner: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Build the methods of a class that stream, as external calls."""
    stream, astream = owner._stream, owner._astream  # noqa: SLF001 - what LangChain calls

    def _stream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        received: list[BaseMessage] = []
        limits = _limits(self, kwargs)
        with provider_call(self, messages, run_manager, kwargs, limits) as slot:

            def ask() -> Iterator[ChatGenerationChunk]:
                limited = slot.limiting(kwargs, own=limits["max_tokens"])
                yield from stream(self, messages, stop, run_manager, **limited)

            for chunk in slot.steps(ask):
                received.append(chunk.message)
                yield chunk
            _record_usage(slot, received)

    async def _astream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        received: list[BaseMessage] = []
        limits = _limits(self, kwargs)
        async with aprovider_call(self, messages, run_manager, kwargs, limits) as slot:

            def ask() -> AsyncIterator[ChatGenerationChunk]:
                limited = slot.limiting(kwargs, own=limits["max_tokens"])
                chunks: AsyncIterator[ChatGenerationChunk] = astream(
                    self, messages, stop, run_manager, **limited
                )
                return chunks

            async for chunk in slot.iterate(ask(), ask):
                received.append(chunk.message)
                yield chunk
            _record_usage(slot, received)

    return _stream, _astream


def _unless_inner(method: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Use the method only in classes that have no patched method of their own."""

    @wraps(method)
    def chosen(self: Any, *args: Any, **kwargs: Any) -> Any:
        kinds = {kind.__name__ for kind in type(self).__mro__}
        return (method if kinds.isdisjoint(_CLASSES) else original)(self, *args, **kwargs)

    return chosen


@contextmanager
def provider_call(
    theirs: Any,
    messages: Sequence[BaseMessage],
    run_manager: RunManager,
    kwargs: Mapping[str, Any],
    limits: Limits,
) -> Iterator[PassthroughCall]:
    """Wait for a slot for a provider's call on a thread."""
    model, request = _request(theirs, messages, kwargs, limits)
    with (
        _named(theirs),
        ref_for_run(run_manager).use(register_provider_model(model)) as agent,
        passthrough_call(agent, model, **request) as slot,
    ):
        yield slot


def aprovider_call(
    theirs: Any,
    messages: Sequence[BaseMessage],
    run_manager: RunManager,
    kwargs: Mapping[str, Any],
    limits: Limits,
) -> AbstractAsyncContextManager[PassthroughCall]:
    """Wait for a slot for a provider's call on an event loop (async form of `provider_call`)."""
    model, request = _request(theirs, messages, kwargs, limits)

    async def enter(stack: AsyncExitStack) -> PassthroughCall:
        stack.enter_context(_named(theirs))
        ref = ref_for_run(run_manager).located()
        kernel = await aregister_provider_model(model)
        agent = await stack.enter_async_context(ref.ause(kernel))
        return await stack.enter_async_context(apassthrough_call(agent, model, **request))

    return AsyncScope(enter)


def _request(
    theirs: Any, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any], limits: Limits
) -> tuple[str, dict[str, Any]]:
    """Return the provider's model, and the call's arguments for the kernel's accounting."""
    model = str(kwargs.get("model") or getattr(theirs, "model_name", None) or theirs.model)
    return model, {"messages": to_kernel_messages(messages, translation.to_messages), **limits}


def _limits(theirs: Any, kwargs: Mapping[str, Any]) -> Limits:
    """Return the limit of the answer that the program sends to its provider."""
    own = getattr(theirs, "_default_params", None)  # what it will send
    return read_answer_limits(own or {"max_tokens": theirs.max_tokens}, kwargs)


def _named(theirs: Any) -> AbstractContextManager[None]:
    """Raise kernel errors that leave the block under the names of a model's own package too."""
    if not any(kind.__module__.startswith("langchain_openai") for kind in type(theirs).__mro__):
        return errors.translated()
    from langchain_aios.openai_errors import translated  # noqa: PLC0415 - needs OpenAI's client

    return translated()


def _record_usage(slot: PassthroughCall, received: Sequence[BaseMessage]) -> None:
    usage = Usage()
    for message in received:
        if isinstance(message, AIMessage) and (took := message.usage_metadata):
            read = took.get("input_token_details", {})
            cached, written = read.get("cache_read") or 0, read.get("cache_creation") or 0
            usage += Usage(took["input_tokens"], took["output_tokens"], cached, written)
    slot.record_usage(usage, "".join(message.text for message in received))
