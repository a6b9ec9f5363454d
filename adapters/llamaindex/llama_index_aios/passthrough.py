"""Mode "passthrough" for `llama_index.llms.openai`: its LLMs keep their provider and key.

The inner methods by which it talks to OpenAI still make every call, with their own
retries; callbacks, events and tools around them stay LlamaIndex's, and what derives
from `OpenAI` (Azure's, OpenAI-like servers') is served as well. Each call waits for a
slot of its provider's model, counts as a syscall of the agent that makes it, and is
cancelled with the kernel's reason when that is taken back (a blocking call runs to
its end, and its answer is dropped).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
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
Said = ChatResponse | CompletionResponse


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Let `llama_index.llms.openai.base.OpenAI` ask when the kernel says so."""
    _admit(module.OpenAI, ("chat", "complete"), patches)


def patch_responses_passthrough(module: ModuleType, patches: Patches) -> None:
    """The same for `llama_index.llms.openai.responses.OpenAIResponses`."""
    _admit(module.OpenAIResponses, ("chat",), patches)


def _admit(owner: type, asking: Sequence[str], patches: Patches) -> None:
    for what in asking:
        for name, admitting in (
            (f"_{what}", _whole),
            (f"_a{what}", _awhole),
            (f"_stream_{what}", _steps),
            (f"_astream_{what}", _asteps),
        ):
            patches.replace(owner, name, admitting(getattr(owner, name)))


# --- the four ways to ask: `self` is an LLM of llama_index.llms.openai ---------------------------


def _whole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def asking(self: Any, asked: Asked, **kwargs: Any) -> Said:
        with _slot(self, asked, kwargs, agent_ref()) as slot:
            answer: Said = ask(self, asked, **_limited(self, slot, kwargs))
            _LatestStep(answer).record_usage(slot)
            return answer

    return asking


def _awhole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    async def asking(self: Any, asked: Asked, **kwargs: Any) -> Said:
        async with _aslot(self, asked, kwargs, agent_ref().located()) as slot:
            limited = _limited(self, slot, kwargs)
            answer: Said = await slot.run(ask(self, asked, **limited))
            _LatestStep(answer).record_usage(slot)
            return answer

    return asking


def _steps(ask: Callable[..., Any]) -> Callable[..., Any]:
    def steps(
        theirs: Any, asked: Asked, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> Generator[Said]:
        heard = _LatestStep()
        with (
            hold,
            _slot(theirs, asked, kwargs, agent) as slot,
            closing(ask(theirs, asked, **_limited(theirs, slot, kwargs))) as answers,
        ):
            for answer in answers:
                heard.hear(answer)
                yield answer
            heard.record_usage(slot)

    @wraps(ask)
    def asking(self: Any, asked: Asked, **kwargs: Any) -> Generator[Said]:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _asteps(ask: Callable[..., Any]) -> Callable[..., Any]:
    async def steps(
        theirs: Any, asked: Asked, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> AsyncGenerator[Said]:
        heard = _LatestStep()
        with hold:
            async with _aslot(theirs, asked, kwargs, agent) as slot:
                limited = _limited(theirs, slot, kwargs)
                answers = await slot.run(ask(theirs, asked, **limited))
                async with aclosing(slot.iterate(answers)) as pieces:
                    async for answer in pieces:
                        heard.hear(answer)
                        yield answer
                heard.record_usage(slot)

    @wraps(ask)
    async def asking(self: Any, asked: Asked, **kwargs: Any) -> AsyncGenerator[Said]:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


# --- what the kernel is told ---------------------------------------------------------------------


class _LatestStep:
    """The latest of an answer's steps, each of which repeats what was said before it."""

    def __init__(self, answer: Said | None = None) -> None:
        self._last: Said | None = None
        self._usage = Usage()
        if answer is not None:
            self.hear(answer)

    def hear(self, answer: Said) -> None:
        """One more step; a provider counts tokens in one of them, the last as a rule."""
        self._last = answer
        if (usage := _usage(answer)).total_tokens:
            self._usage = usage

    def record_usage(self, slot: PassthroughCall) -> None:
        """Book the answer."""
        if isinstance(self._last, ChatResponse):
            (message,) = to_kernel_messages([self._last.message], translation.to_messages)
            slot.record_usage(self._usage, message.content, message.tool_calls)
        elif self._last is not None:
            slot.record_usage(self._usage, self._last.text)


def _usage(answer: Said) -> Usage:
    counted = answer.additional_kwargs
    if (took := counted.get("usage")) is not None:  # as the Responses API counts
        cached = took.input_tokens_details.cached_tokens
        return Usage(took.input_tokens, took.output_tokens, cached)
    details = getattr(getattr(answer.raw, "usage", None), "prompt_tokens_details", None)
    return Usage(
        counted.get("prompt_tokens") or 0,
        counted.get("completion_tokens") or 0,
        getattr(details, "cached_tokens", None) or 0,
    )


@contextmanager
def _slot(
    theirs: Any, asked: Asked, kwargs: dict[str, Any], ref: AgentRef
) -> Iterator[PassthroughCall]:
    model, request = _request(theirs, asked, kwargs)
    with (
        ref.use(register_provider_model(model)) as agent,
        passthrough_call(agent, model, **request) as slot,
    ):
        yield slot


def _aslot(
    theirs: Any, asked: Asked, kwargs: dict[str, Any], ref: AgentRef
) -> AbstractAsyncContextManager[PassthroughCall]:
    model, request = _request(theirs, asked, kwargs)

    async def enter(stack: AsyncExitStack) -> PassthroughCall:
        kernel = await aregister_provider_model(model)
        agent = await stack.enter_async_context(ref.ause(kernel))
        return await stack.enter_async_context(apassthrough_call(agent, model, **request))

    return AsyncScope(enter)


def _limited(theirs: Any, slot: PassthroughCall, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Their arguments with what their budget has left, if they set no limit themselves."""
    sent = theirs._get_model_kwargs(**kwargs)  # noqa: SLF001 - what it will send
    own = read_answer_limits(sent)["max_tokens"]
    if theirs.__class__.__name__.endswith("Responses"):
        return slot.limiting(kwargs, "max_output_tokens", own=own)
    return slot.limiting(kwargs, limit_parameter(theirs.api_base), own=own)


def _request(theirs: Any, asked: Asked, kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The provider's model, and what the kernel's books say of the call."""
    sent = theirs._get_model_kwargs(**kwargs)  # noqa: SLF001 - what it will send
    if isinstance(asked, str):
        known = [Message("user", asked)]
    else:
        known = to_kernel_messages(asked, translation.to_messages)
    return str(sent["model"]), {"messages": known, **read_answer_limits(sent)}
