"""Mode "passthrough" for `langchain_openai.OpenAI`, the old completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.outputs import GenerationChunk, LLMResult

from aios_adapters import PassthroughCall, read_answer_limits
from aios_core import Usage
from aios_core.launch import Patches
from langchain_aios.model_methods import patch_entries
from langchain_aios.passthrough import Limits, aprovider_call, provider_call


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of the completion models in `langchain_openai.llms.base`.

    Prompts that go to the provider in one request are one call. A model with `streaming` uses
    its own `_stream`, which is scheduled too.
    """
    owner = module.BaseOpenAI
    for method in (*_answering(owner), *_streaming(owner)):
        patches.replace(owner, method.__name__, method)
    patch_entries(owner, patches)


def _answering(owner: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Build the methods of a class that answer as a whole, as external calls."""
    generate, agenerate = owner._generate, owner._agenerate  # noqa: SLF001 - what LangChain calls

    def _generate(
        self: Any,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        if self.streaming:
            result: LLMResult = generate(self, prompts, stop, run_manager, **kwargs)
            return result
        limits = _limits(self, kwargs, len(prompts))
        with provider_call(self, _told(prompts), run_manager, kwargs, limits) as slot:

            def ask() -> LLMResult:
                limited = _limited(self, slot, kwargs, limits)
                answer: LLMResult = generate(self, prompts, stop, run_manager, **limited)
                return answer

            return _with_usage(slot, slot.attempt(ask))

    async def _agenerate(
        self: Any,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        if self.streaming:
            result: LLMResult = await agenerate(self, prompts, stop, run_manager, **kwargs)
            return result
        limits = _limits(self, kwargs, len(prompts))
        async with aprovider_call(self, _told(prompts), run_manager, kwargs, limits) as slot:

            def ask() -> Awaitable[LLMResult]:
                limited = _limited(self, slot, kwargs, limits)
                answer: Awaitable[LLMResult] = agenerate(
                    self, prompts, stop, run_manager, **limited
                )
                return answer

            return _with_usage(slot, await slot.aattempt(ask))

    return _generate, _agenerate


def _streaming(owner: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Build the methods of a class that stream, as external calls."""
    stream, astream = owner._stream, owner._astream  # noqa: SLF001 - what LangChain calls

    def _stream(
        self: Any,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        said = ""
        limits = _limits(self, kwargs, 1)
        with provider_call(self, _told([prompt]), run_manager, kwargs, limits) as slot:

            def ask() -> Iterator[GenerationChunk]:
                limited = _limited(self, slot, kwargs, limits)
                yield from stream(self, prompt, stop, run_manager, **limited)

            for chunk in slot.steps(ask):
                said += chunk.text
                yield chunk
            slot.record_usage(Usage(), said)

    async def _astream(
        self: Any,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        said = ""
        limits = _limits(self, kwargs, 1)
        async with aprovider_call(self, _told([prompt]), run_manager, kwargs, limits) as slot:

            def ask() -> AsyncIterator[GenerationChunk]:
                limited = _limited(self, slot, kwargs, limits)
                chunks: AsyncIterator[GenerationChunk] = astream(
                    self, prompt, stop, run_manager, **limited
                )
                return chunks

            async for chunk in slot.iterate(ask(), ask):
                said += chunk.text
                yield chunk
            slot.record_usage(Usage(), said)

    return _stream, _astream


def _told(prompts: list[str]) -> list[HumanMessage]:
    return [HumanMessage(prompt) for prompt in prompts]


def _limits(theirs: Any, kwargs: Mapping[str, Any], num_prompts: int) -> Limits:
    """Return the program's limit of each answer; the class's default limit does not count."""
    params = dict(theirs._invocation_params)  # noqa: SLF001 - what it will send
    if not _has_said_a_limit(theirs):
        params.pop("max_tokens", None)
    return read_answer_limits(params, kwargs, num_prompts=num_prompts)


def _limited(
    theirs: Any, slot: PassthroughCall, kwargs: Mapping[str, Any], limits: Limits
) -> dict[str, Any]:
    """Limit the answer to what the budget has left, at most what the class would have sent."""
    limited = slot.limiting(kwargs, own=limits["max_tokens"])
    if limited != kwargs and not _has_said_a_limit(theirs):
        limited["max_tokens"] = min(limited["max_tokens"], theirs.max_tokens)
    return limited


def _has_said_a_limit(theirs: Any) -> bool:
    return "max_tokens" in {*theirs.model_fields_set, *theirs.model_kwargs}


def _with_usage(slot: PassthroughCall, result: LLMResult) -> LLMResult:
    """Record the usage that the provider reports."""
    took = (result.llm_output or {}).get("token_usage") or {}
    usage = Usage(took.get("prompt_tokens") or 0, took.get("completion_tokens") or 0)
    slot.record_usage(
        usage, "\n".join(one.text for answers in result.generations for one in answers)
    )
    return result
