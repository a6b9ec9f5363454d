"""Mode "passthrough" for `langchain_openai`: its models keep their provider and key.

The four methods by which they talk to OpenAI still make every call. Each waits for
a slot of its provider's model, counts as a syscall of the agent that makes it, and
is cancelled with the kernel's reason when that is taken back (a blocking call runs
to its end, and its answer is dropped).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
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
from langchain_aios import translation
from langchain_aios.callers import RunManager, ref_for_run
from langchain_aios.model_methods import patch_entries
from langchain_aios.openai_errors import translated

Limits = Mapping[str, int | None]

_CLASSES: Final = ("ChatOpenAI", "AzureChatOpenAI")
_BASE: Final = "BaseChatOpenAI"  # of the two, and of other providers' classes (ChatDeepSeek, ...)


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Let the chat models of a module of `langchain_openai` ask when the kernel says so."""
    for name in (_BASE, *_CLASSES):
        owner = getattr(module, name, None)
        if owner is not None and owner.__module__ == module.__name__:
            _admit(owner, patches)


def _admit(owner: Any, patches: Patches) -> None:
    generate, agenerate = owner._generate, owner._agenerate  # noqa: SLF001 - what LangChain calls
    stream, astream = owner._stream, owner._astream  # noqa: SLF001

    def _generate(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        limits = _limits(self, kwargs)
        with provider_call(self, messages, run_manager, kwargs, limits) as slot:
            limited = slot.limiting(kwargs, own=limits["max_tokens"])
            result: ChatResult = generate(self, messages, stop, run_manager, **limited)
            _settle(slot, [generation.message for generation in result.generations])
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
            limited = slot.limiting(kwargs, own=limits["max_tokens"])
            work = agenerate(self, messages, stop, run_manager, **limited)
            result: ChatResult = await slot.run(work)
            _settle(slot, [generation.message for generation in result.generations])
            return result

    def _stream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        said: list[BaseMessage] = []
        limits = _limits(self, kwargs)
        with provider_call(self, messages, run_manager, kwargs, limits) as slot:
            limited = slot.limiting(kwargs, own=limits["max_tokens"])
            for chunk in stream(self, messages, stop, run_manager, **limited):
                said.append(chunk.message)
                yield chunk
            _settle(slot, said)

    async def _astream(
        self: Any,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        said: list[BaseMessage] = []
        limits = _limits(self, kwargs)
        async with aprovider_call(self, messages, run_manager, kwargs, limits) as slot:
            limited = slot.limiting(kwargs, own=limits["max_tokens"])
            chunks = astream(self, messages, stop, run_manager, **limited)
            async for chunk in slot.iterate(chunks):
                said.append(chunk.message)
                yield chunk
            _settle(slot, said)

    for method in (_generate, _agenerate, _stream, _astream):
        original = getattr(owner, method.__name__)
        is_base = owner.__name__ == _BASE
        chosen = _unless_inner(method, original) if is_base else method
        patches.replace(owner, method.__name__, chosen)
    if owner.__name__ == _BASE or not hasattr(owner.invoke, "__wrapped__"):
        patch_entries(owner, patches)


def _unless_inner(method: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """The method for a class that has none of its own; one that has asks there already."""

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
    """A slot for a call of one of their models, on a thread."""
    model, request = _request(theirs, messages, kwargs, limits)
    with (
        translated(),
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
    """The same on an event loop."""
    model, request = _request(theirs, messages, kwargs, limits)

    async def enter(stack: AsyncExitStack) -> PassthroughCall:
        stack.enter_context(translated())
        ref = ref_for_run(run_manager).located()
        kernel = await aregister_provider_model(model)
        agent = await stack.enter_async_context(ref.ause(kernel))
        return await stack.enter_async_context(apassthrough_call(agent, model, **request))

    return AsyncScope(enter)


def _request(
    theirs: Any, messages: Sequence[BaseMessage], kwargs: Mapping[str, Any], limits: Limits
) -> tuple[str, dict[str, Any]]:
    """The provider's model, and what the kernel's books say of the call."""
    model = str(kwargs.get("model") or theirs.model_name)
    return model, {"messages": to_kernel_messages(messages, translation.to_messages), **limits}


def _limits(theirs: Any, kwargs: Mapping[str, Any]) -> Limits:
    """Return the limit of the answer that the program sends to its provider."""
    return read_answer_limits(theirs._default_params, kwargs)  # noqa: SLF001 - what it will send


def _settle(slot: PassthroughCall, said: Sequence[BaseMessage]) -> None:
    usage = Usage()
    for message in said:
        if isinstance(message, AIMessage) and (took := message.usage_metadata):
            cached = took.get("input_token_details", {}).get("cache_read", 0)
            usage += Usage(took["input_tokens"], took["output_tokens"], cached)
    slot.record_usage(usage, "".join(message.text for message in said))
