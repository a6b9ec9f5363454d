"""Programs with `llama_index.llms.openai.OpenAI` (and what derives from it) on the kernel.

Replaced are the inner methods that talk to OpenAI, so callbacks, retries and events
around them stay LlamaIndex's. For a chat, LlamaIndex's own code still writes the request
and reads the answer, so that what a constructor or a call says is said. A model that no
core serves is answered by the kernel's default, which is said once, on standard error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from types import ModuleType
from typing import Any

import openai
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)

from aios_core import Agent, Kernel, default_kernel
from aios_core.adapting import (
    NO_KEY,
    AgentSettings,
    Caller,
    KernelTransport,
    Patches,
    RunHold,
    adefault_kernel,
    ahold,
    served_model,
)
from llama_index_aios.agents import claim, directory, identify, tree
from llama_index_aios.llm import AIOSLLM, Metadata

Asked = Sequence[ChatMessage]
ChatSteps = Generator[ChatResponse, None, None]
AsyncChatSteps = AsyncGenerator[ChatResponse, None]
Use = tuple[Caller, AgentSettings]
Claim = tuple[RunHold, Caller, AgentSettings]


def substitute(module: ModuleType, patches: Patches) -> None:
    """Let the kernel's cores answer."""
    owner = module.OpenAI
    for what, on_kernel in (
        ("_chat", _whole),
        ("_achat", _awhole),
        ("_stream_chat", _steps),
        ("_astream_chat", _asteps),
    ):
        patches.replace(owner, what, on_kernel(getattr(owner, what)))
    for what, method in (
        ("_complete", _complete),
        ("_stream_complete", _stream_complete),
        ("_acomplete", _acomplete),
        ("_astream_complete", _astream_complete),
    ):
        patches.replace(owner, what, method)
    patches.replace(owner, "metadata", windowed(owner.metadata))


def windowed(theirs: property) -> property:
    """An LLM's metadata, with the window of the core that answers, if that is the smaller one."""

    def metadata(self: Any) -> LLMMetadata:
        said: LLMMetadata = theirs.__get__(self)

        def window() -> int:
            kernel = default_kernel()
            model = self.model if self.model in kernel.pool.models else None
            core = kernel.pool.route(model)[0]
            return min(core.capabilities.context_window, said.context_window)

        return Metadata(window, **said.model_dump())

    return property(metadata)


def _ours(theirs: Any, kwargs: dict[str, Any], model: str | None) -> tuple[AIOSLLM, dict[str, Any]]:
    """Our LLM with the settings of theirs, and the arguments of the call."""
    said = {**theirs.additional_kwargs, **kwargs}
    said.pop("use_chat_completions", None)
    said.pop("model", None)
    llm = AIOSLLM(
        model=model,
        temperature=theirs.temperature,
        max_tokens=theirs.max_tokens,
        timeout=theirs.timeout,
    )
    return llm, said


def _now(theirs: Any, kwargs: dict[str, Any]) -> tuple[AIOSLLM, dict[str, Any]]:
    asked = kwargs.get("model") or theirs.model
    return _ours(theirs, kwargs, served_model(default_kernel(), asked))


async def _soon(theirs: Any, kwargs: dict[str, Any]) -> tuple[AIOSLLM, dict[str, Any]]:
    asked = kwargs.get("model") or theirs.model
    return _ours(theirs, kwargs, served_model(await adefault_kernel(), asked))


# --- chats: LlamaIndex writes and reads them, the kernel stands where the endpoint would be -----


def _whole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def asking(self: Any, messages: Asked, **kwargs: Any) -> ChatResponse:
        use = _identified()
        with KernelTransport(partial(_held, use)) as transport, transport.raising():
            answer: ChatResponse = ask(_on_kernel(self, transport), messages, **kwargs)
            return answer

    return asking


def _awhole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    async def asking(self: Any, messages: Asked, **kwargs: Any) -> ChatResponse:
        ahold = partial(_aheld, _identified())
        with KernelTransport(ahold=ahold) as transport, transport.raising():
            answer: ChatResponse = await ask(_aon_kernel(self, transport), messages, **kwargs)
            return answer

    return asking


def _steps(ask: Callable[..., Any]) -> Callable[..., Any]:
    def steps(theirs: Any, messages: Asked, kwargs: dict[str, Any], found: Claim) -> ChatSteps:
        hold, caller, settings = found
        with (
            hold,
            KernelTransport(partial(_held, (caller, settings))) as transport,
            transport.raising(),
        ):
            yield from ask(_on_kernel(theirs, transport), messages, **kwargs)

    @wraps(ask)
    def asking(self: Any, messages: Asked, **kwargs: Any) -> ChatResponseGen:
        return steps(self, messages, kwargs, claim(tree, None, AgentSettings()))

    return asking


def _asteps(ask: Callable[..., Any]) -> Callable[..., Any]:
    async def steps(
        theirs: Any, messages: Asked, kwargs: dict[str, Any], found: Claim
    ) -> AsyncChatSteps:
        hold, caller, settings = found
        with (
            hold,
            KernelTransport(ahold=partial(_aheld, (caller, settings))) as transport,
            transport.raising(),
        ):
            async for step in await ask(_aon_kernel(theirs, transport), messages, **kwargs):
                yield step

    @wraps(ask)
    async def asking(self: Any, messages: Asked, **kwargs: Any) -> ChatResponseAsyncGen:
        return steps(self, messages, kwargs, claim(tree, None, AgentSettings()))

    return asking


def _identified() -> Use:
    return identify(tree, None, AgentSettings())


def _held(use: Use, stack: ExitStack, kernel: Kernel) -> Agent:
    return stack.enter_context(directory.use(kernel, *use))


async def _aheld(use: Use, stack: ExitStack, kernel: Kernel) -> Agent:
    return await ahold(stack, directory, kernel, *use)


def _on_kernel(theirs: Any, transport: KernelTransport) -> Any:
    """A copy whose requests the kernel serves."""
    llm = theirs.model_copy(update={"reuse_client": True})
    client = _client(theirs._get_client, openai.OpenAI, theirs)  # noqa: SLF001
    llm._client = transport.client_for(client)  # noqa: SLF001
    return llm


def _aon_kernel(theirs: Any, transport: KernelTransport) -> Any:
    llm = theirs.model_copy(update={"reuse_client": True})
    client = _client(theirs._get_aclient, openai.AsyncOpenAI, theirs)  # noqa: SLF001
    llm._aclient = transport.aclient_for(client)  # noqa: SLF001
    return llm


def _client(get: Callable[[], Any], kind: Any, theirs: Any) -> Any:
    """Its own client; one without credentials where it cannot be made for want of them."""
    try:
        return get()
    except (openai.OpenAIError, ValueError):
        return kind(api_key=NO_KEY, max_retries=theirs.max_retries, timeout=theirs.timeout)


# --- prompts without roles: `self` is an LLM of llama_index.llms.openai --------------------------


def _complete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponse:
    llm, said = _now(self, kwargs)
    return llm.answer_prompt(prompt, **said)


def _stream_complete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponseGen:
    llm, said = _now(self, kwargs)
    return llm.steps_of_prompt(prompt, **said)


async def _acomplete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponse:
    llm, said = await _soon(self, kwargs)
    return await llm.aanswer_prompt(prompt, **said)


async def _astream_complete(self: Any, prompt: str, **kwargs: Any) -> CompletionResponseAsyncGen:
    llm, said = await _soon(self, kwargs)
    return llm.asteps_of_prompt(prompt, **said)
