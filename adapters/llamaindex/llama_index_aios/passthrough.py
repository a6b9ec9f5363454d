"""Mode "passthrough" for LLMs of OpenAI and Anthropic, which keep their provider and key.

The methods that call the provider still make every call, with their own
retries; callbacks, events and tools around them stay LlamaIndex's, and subclasses
of `OpenAI` (Azure's, OpenAI-like servers') are covered as well. Each call waits for a
slot of its provider's model and is a syscall of the agent that makes it. If the kernel cancels
the syscall, the call is cancelled and the kernel's error is raised (a blocking call runs to
its end, and its answer is dropped).
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    closing,
    contextmanager,
)
from functools import wraps
from types import ModuleType
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse

from aios_adapters import (
    AgentRef,
    AsyncScope,
    PassthroughCall,
    RunHold,
    apassthrough_call,
    aregister_provider_model,
    limit_parameter,
    passthrough_call,
    read_answer_limits,
    register_provider_model,
    to_kernel_messages,
)
from aios_core import Message, Usage
from aios_core.launch import Patches
from llama_index_aios import translation
from llama_index_aios.callers import agent_ref, claim

Asked = Sequence[ChatMessage] | str
Answer = ChatResponse | CompletionResponse


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of `llama_index.llms.openai.base.OpenAI`."""
    schedule(module.OpenAI, ("chat", "complete"), patches)


def patch_responses_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of `llama_index.llms.openai.responses.OpenAIResponses`."""
    schedule(module.OpenAIResponses, ("chat",), patches)


def schedule(owner: type, asking: Sequence[str], patches: Patches, prefix: str = "_") -> None:
    """Schedule the methods of a class that call its provider, whole and as streams."""
    for what in asking:
        for name, scheduled in (
            (f"{prefix}{what}", _whole),
            (f"{prefix}a{what}", _awhole),
            (f"{prefix}stream_{what}", _steps),
            (f"{prefix}astream_{what}", _asteps),
        ):
            patches.replace(owner, name, scheduled(getattr(owner, name)))


# --- the four ways to call: `self` is an LLM of a provider ---------------------------------------


def _whole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def asking(self: Any, asked: Asked, **kwargs: Any) -> Answer:
        with provider_slot(self, asked, kwargs, agent_ref()) as slot:
            answer: Answer = slot.attempt(lambda: ask(self, asked, **_limited(self, slot, kwargs)))
            _LatestStep(answer).record_usage(slot)
            return answer

    return asking


def _awhole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    async def asking(self: Any, asked: Asked, **kwargs: Any) -> Answer:
        async with aprovider_slot(self, asked, kwargs, agent_ref().located()) as slot:
            answer: Answer = await slot.aattempt(
                lambda: ask(self, asked, **_limited(self, slot, kwargs))
            )
            _LatestStep(answer).record_usage(slot)
            return answer

    return asking


def _steps(ask: Callable[..., Any]) -> Callable[..., Any]:
    def steps(
        theirs: Any, asked: Asked, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> Generator[Answer]:
        latest = _LatestStep()

        def begin() -> Iterator[Answer]:
            yield from ask(theirs, asked, **_limited(theirs, slot, kwargs))

        with (
            hold,
            provider_slot(theirs, asked, kwargs, agent) as slot,
            closing(slot.steps(begin)) as answers,
        ):
            for answer in answers:
                latest.update(answer)
                yield answer
            latest.record_usage(slot)

    @wraps(ask)
    def asking(self: Any, asked: Asked, **kwargs: Any) -> Generator[Answer]:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _asteps(ask: Callable[..., Any]) -> Callable[..., Any]:
    async def steps(
        theirs: Any, asked: Asked, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> AsyncGenerator[Answer]:
        latest = _LatestStep()
        with hold:
            async with aprovider_slot(theirs, asked, kwargs, agent) as slot:
                answers = _begun(lambda: ask(theirs, asked, **_limited(theirs, slot, kwargs)))
                async with aclosing(slot.iterate(answers(), answers)) as pieces:
                    async for answer in pieces:
                        latest.update(answer)
                        yield answer
                latest.record_usage(slot)

    @wraps(ask)
    async def asking(self: Any, asked: Asked, **kwargs: Any) -> AsyncGenerator[Answer]:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _begun(
    ask: Callable[[], Awaitable[AsyncGenerator[Answer]]],
) -> Callable[[], AsyncGenerator[Answer]]:
    """Return a function that begins a stream, which LlamaIndex's methods return when awaited."""

    async def steps() -> AsyncGenerator[Answer]:
        async with aclosing(await ask()) as answers:
            async for answer in answers:
                yield answer

    return steps


# --- usage ---------------------------------------------------------------------------------------


class _LatestStep:
    """The latest step of an answer; each step has the whole answer so far."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._last: Answer | None = None
        self._usage = Usage()
        if answer is not None:
            self.update(answer)

    def update(self, answer: Answer) -> None:
        """Keep one more step; usage comes in one of them, usually the last."""
        self._last = answer
        if (usage := _usage(answer)).total_tokens:
            self._usage = usage

    def record_usage(self, slot: PassthroughCall) -> None:
        """Record the answer and its usage."""
        if isinstance(self._last, ChatResponse):
            (message,) = to_kernel_messages([self._last.message], translation.to_messages)
            slot.record_usage(self._usage, message.content, message.tool_calls)
        elif self._last is not None:
            slot.record_usage(self._usage, self._last.text)


def _usage(answer: Answer) -> Usage:
    counted = answer.additional_kwargs
    if (took := counted.get("usage")) is not None:  # the format of the Responses API
        cached = took.input_tokens_details.cached_tokens
        return Usage(took.input_tokens, took.output_tokens, cached)
    if isinstance(answer.raw, Mapping) and "usage" in answer.raw:
        return _usage_of_anthropic(answer.raw["usage"])
    details = getattr(getattr(answer.raw, "usage", None), "prompt_tokens_details", None)
    return Usage(
        counted.get("prompt_tokens") or 0,
        counted.get("completion_tokens") or 0,
        getattr(details, "cached_tokens", None) or 0,
    )


def _usage_of_anthropic(counted: Any) -> Usage:
    """Return the usage of an answer of Anthropic's, which counts cached tokens apart."""
    counts = dict(counted)
    read = counts.get("cache_read_input_tokens") or 0
    written = counts.get("cache_creation_input_tokens") or 0
    num_input = (counts.get("input_tokens") or 0) + read + written
    return Usage(num_input, counts.get("output_tokens") or 0, read, written)


@contextmanager
def provider_slot(
    theirs: Any, asked: Asked, kwargs: dict[str, Any], ref: AgentRef
) -> Iterator[PassthroughCall]:
    """Wait for a slot for a provider's call on a thread."""
    model, request = _request(theirs, asked, kwargs)
    with (
        ref.use(register_provider_model(model)) as agent,
        passthrough_call(agent, model, **request) as slot,
    ):
        yield slot


def aprovider_slot(
    theirs: Any, asked: Asked, kwargs: dict[str, Any], ref: AgentRef
) -> AbstractAsyncContextManager[PassthroughCall]:
    """Wait for a slot for a provider's call on an event loop."""
    model, request = _request(theirs, asked, kwargs)

    async def enter(stack: AsyncExitStack) -> PassthroughCall:
        kernel = await aregister_provider_model(model)
        agent = await stack.enter_async_context(ref.ause(kernel))
        return await stack.enter_async_context(apassthrough_call(agent, model, **request))

    return AsyncScope(enter)


def _limited(theirs: Any, slot: PassthroughCall, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Limit the answer to what the agent's budget has left, if the program set no limit."""
    sent = _sent(theirs, kwargs)
    own = read_answer_limits(sent)["max_tokens"]
    if theirs.__class__.__name__.endswith("Responses"):
        return slot.limiting(kwargs, "max_output_tokens", own=own)
    url = getattr(theirs, "api_base", "")  # OpenAI's alone has another name for the limit
    return slot.limiting(kwargs, limit_parameter(url), own=own)


def _sent(theirs: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the options that an LLM will send."""
    options = getattr(theirs, "_get_model_kwargs", None) or theirs._get_all_kwargs  # noqa: SLF001
    sent: dict[str, Any] = options(**kwargs)
    return sent


def _request(theirs: Any, asked: Asked, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the provider's model, and the call's arguments for the kernel's accounting."""
    sent = _sent(theirs, kwargs)
    if isinstance(asked, str):
        known = [Message("user", asked)]
    else:
        known = to_kernel_messages(asked, translation.to_messages)
    return str(sent["model"]), {"messages": known, **read_answer_limits(sent)}
