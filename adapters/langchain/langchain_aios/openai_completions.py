"""Run scripts that use `langchain_openai.OpenAI` (old completions) on the kernel, unmodified.

As in `substitute`, the four methods that call OpenAI are replaced on the classes. The
kernel's cores are chat models, so a prompt becomes a user's message. Several prompts, and
several answers to one (`n`), are separate syscalls that run at the same time, without
a thread. `best_of` is not supported: the first answers are returned, and a notice reports that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from types import ModuleType
from typing import Any, Final

from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from aios_adapters import adefault_kernel, old_logprobs, resolve_model
from aios_core import Completion, Kernel, Usage, default_kernel
from aios_core.launch import Patches
from langchain_aios.callers import ref_for_run
from langchain_aios.chat_models import ChatAIOS
from langchain_aios.model_methods import patch_entries
from langchain_aios.openai_calls import name_unused, seconds_of
from langchain_aios.openai_errors import translated
from langchain_aios.substitute import without_azure, without_key
from langchain_aios.token_counts import patch_counts

_OF_THE_CONNECTION: Final = (
    *("openai_api_base", "openai_organization", "openai_proxy", "default_headers"),
    *("default_query", "http_client", "http_async_client", "max_retries"),
)


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Put the completion models of `langchain_openai.llms.base` on the kernel."""
    for method in (_generate, _agenerate, _stream, _astream):
        patches.replace(module.BaseOpenAI, method.__name__, method)
    patch_entries(module.BaseOpenAI, patches)
    patch_counts(module.BaseOpenAI, patches)
    patches.replace(module.OpenAI, "__init__", without_key(module.OpenAI.__init__))


def patch_azure(module: ModuleType, patches: Patches) -> None:
    """Let `langchain_openai.AzureOpenAI` be made without credentials."""
    patches.replace(module.AzureOpenAI, "__init__", without_azure(module.AzureOpenAI.__init__))


# --- the four methods: `self` is a completion model of langchain_openai ------------------------


def _generate(
    self: Any,
    prompts: list[str],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> LLMResult:
    call = _Call(self, kwargs, default_kernel())
    watcher = run_manager if self.streaming else None
    with translated(), ref_for_run(run_manager).use() as agent, ExitStack() as stack:
        asked = [
            stack.enter_context(agent.llm.stream(**one)) for one in call.requests(prompts, stop)
        ]
        for stream in asked:
            for delta in stream:
                if watcher:
                    watcher.on_llm_new_token(delta.text, chunk=GenerationChunk(text=delta.text))
        return call.result([stream.completion for stream in asked])


async def _agenerate(
    self: Any,
    prompts: list[str],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> LLMResult:
    call = _Call(self, kwargs, await adefault_kernel())
    watcher = run_manager if self.streaming else None
    with translated(), ExitStack() as stack:
        agent = await ref_for_run(run_manager).hold(stack)
        streams = (agent.llm.astream(**one) for one in call.requests(prompts, stop))
        asked = [stack.enter_context(closing(stream)) for stream in streams]
        for stream in asked:
            async for delta in stream:
                if watcher:
                    chunk = GenerationChunk(text=delta.text)
                    await watcher.on_llm_new_token(delta.text, chunk=chunk)
        return call.result([stream.completion for stream in asked])


def _stream(
    self: Any,
    prompt: str,
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> Iterator[GenerationChunk]:
    call = _Call(self, kwargs, default_kernel())
    with (
        translated(),
        ref_for_run(run_manager).use() as agent,
        agent.llm.stream(**call.request(prompt, stop)) as deltas,
    ):
        for delta in deltas:
            chunk = GenerationChunk(text=delta.text)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
        yield _last(deltas.completion)


async def _astream(
    self: Any,
    prompt: str,
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> AsyncIterator[GenerationChunk]:
    call = _Call(self, kwargs, await adefault_kernel())
    with translated(), ExitStack() as stack:  # a half-read stream must have nothing to await
        agent = await ref_for_run(run_manager).hold(stack)
        stream = agent.llm.astream(**call.request(prompt, stop))
        async for delta in stack.enter_context(closing(stream)):
            chunk = GenerationChunk(text=delta.text)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
        yield _last(stream.completion)


class _Call:
    """One call of a completion model, as calls of `ChatAIOS`.

    Raises:
        InvalidRequest: an option is malformed.
    """

    def __init__(self, theirs: Any, kwargs: Mapping[str, Any], kernel: Kernel) -> None:
        said = {**theirs._default_params, **kwargs}  # noqa: SLF001 - what it would send
        name_unused(theirs, _OF_THE_CONNECTION)
        self._num_answers = int(said.pop("n", None) or 1)
        if (said.pop("best_of", None) or 1) > self._num_answers:
            name_unused(theirs, ("best_of",))
        if said.get("max_tokens") == -1:  # no limit
            del said["max_tokens"]
        if (num_likely := said.pop("logprobs", None)) is not None:
            said |= {"logprobs": True, "top_logprobs": num_likely or None}
        model = said.pop("model", None) or theirs.model_name
        timeout_s = seconds_of(theirs.request_timeout)
        self._said = said
        self.model = ChatAIOS(model=resolve_model(kernel, model), timeout=timeout_s)

    def request(self, prompt: str, stop: Sequence[str] | None) -> dict[str, Any]:
        """Return the arguments of the syscall for one answer."""
        return self.model._request([HumanMessage(prompt)], stop, self._said)  # noqa: SLF001 - ours

    def requests(
        self, prompts: Sequence[str], stop: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Yield the arguments for every answer to every prompt, in order."""
        for prompt in prompts:
            for _ in range(self._num_answers):
                yield self.request(prompt, stop)

    def result(self, completions: Sequence[Completion]) -> LLMResult:
        """Return the answers, in the order of the requests."""
        usage = sum((completion.usage for completion in completions), Usage())
        answers = [Generation(text=one.text, generation_info=_about(one)) for one in completions]
        starts = range(0, len(answers), self._num_answers)
        return LLMResult(
            generations=[[*answers[at : at + self._num_answers]] for at in starts],
            llm_output={
                "token_usage": {
                    "prompt_tokens": usage.input_tokens,
                    "completion_tokens": usage.output_tokens,
                    "total_tokens": usage.total_tokens,
                },
                "model_name": completions[0].model if completions else self.model.model,
            },
        )


def _last(completion: Completion) -> GenerationChunk:
    """Return the last chunk of a stream: no text, but the finish reason."""
    return GenerationChunk(text="", generation_info=_about(completion))


def _about(completion: Completion) -> dict[str, Any]:
    """Return the finish reason and log probabilities in the format of the old completions."""
    logprobs = old_logprobs(completion.logprobs)
    return {"finish_reason": str(completion.finish_reason), "logprobs": logprobs}
