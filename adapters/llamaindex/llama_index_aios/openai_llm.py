"""Run programs with `llama_index.llms.openai.OpenAI` and its subclasses on the kernel.

The inner methods that call OpenAI are replaced, so callbacks, retries and events
around them stay LlamaIndex's. Its own code still writes the request and reads the answer, so
every option of a constructor or a call reaches the core. If no core serves the model, the
kernel's default model answers, which is reported once on standard error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import wraps
from types import ModuleType
from typing import Any

import openai
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
)

from aios_adapters import NO_KEY, AgentRef, KernelTransport, RunHold
from aios_core import default_kernel
from aios_core.launch import Patches
from llama_index_aios.callers import agent_ref, claim
from llama_index_aios.llm import Metadata

Asked = Sequence[ChatMessage] | str
Answer = ChatResponse | CompletionResponse
Steps = Generator[Answer, None, None]
AsyncSteps = AsyncGenerator[Answer, None]


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Replace the provider by the kernel's cores."""
    owner = module.OpenAI
    for what, on_kernel in (
        ("_chat", _whole),
        ("_achat", _awhole),
        ("_stream_chat", _steps),
        ("_astream_chat", _asteps),
        ("_complete", _whole),
        ("_acomplete", _awhole),
        ("_stream_complete", _steps),
        ("_astream_complete", _asteps),
    ):
        patches.replace(owner, what, on_kernel(getattr(owner, what)))
    patches.replace(owner, "_tokenizer", property(_no_tokenizer))
    patches.replace(owner, "metadata", windowed(owner.metadata))


def _no_tokenizer(_: Any) -> None:
    """Return no tokenizer, so that LlamaIndex sets no answer limit by another model's count."""


def windowed(theirs: property) -> property:
    """Wrap an LLM's metadata to have the window of the core that answers, if it is smaller."""

    def metadata(self: Any) -> LLMMetadata:
        said: LLMMetadata = theirs.__get__(self)

        def window() -> int:
            kernel = default_kernel()
            model = self.model if self.model in kernel.pool.models else None
            core = kernel.pool.route(model)[0]
            return min(core.capabilities.context_window, said.context_window)

        return Metadata(window, **said.model_dump())

    return property(metadata)


# --- LlamaIndex writes requests and reads answers, and the kernel replaces the endpoint ----------


def _whole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def asking(self: Any, asked: Asked, **kwargs: Any) -> Answer:
        with KernelTransport(agent_ref()) as transport, transport.raising():
            answer: Answer = ask(_on_kernel(self, transport), asked, **_sent(kwargs))
            return answer

    return asking


def _awhole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    async def asking(self: Any, asked: Asked, **kwargs: Any) -> Answer:
        with KernelTransport(agent_ref().located()) as transport, transport.raising():
            answer: Answer = await ask(_aon_kernel(self, transport), asked, **_sent(kwargs))
            return answer

    return asking


def _steps(ask: Callable[..., Any]) -> Callable[..., Any]:
    def steps(
        theirs: Any, asked: Asked, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> Steps:
        with hold, KernelTransport(agent) as transport, transport.raising():
            yield from ask(_on_kernel(theirs, transport), asked, **_sent(kwargs))

    @wraps(ask)
    def asking(self: Any, asked: Asked, **kwargs: Any) -> Steps:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _asteps(ask: Callable[..., Any]) -> Callable[..., Any]:
    async def steps(
        theirs: Any, asked: Asked, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> AsyncSteps:
        with hold, KernelTransport(agent) as transport, transport.raising():
            async for step in await ask(_aon_kernel(theirs, transport), asked, **_sent(kwargs)):
                yield step

    @wraps(ask)
    async def asking(self: Any, asked: Asked, **kwargs: Any) -> AsyncSteps:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _sent(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments without the one that chooses the method."""
    return {key: value for key, value in kwargs.items() if key != "use_chat_completions"}


def _on_kernel(theirs: Any, transport: KernelTransport) -> Any:
    """Return a copy of an LLM that sends its requests to the kernel."""
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
    """Return the LLM's own client, or one without credentials if it cannot be made without."""
    try:
        return get()
    except (openai.OpenAIError, ValueError):
        return kind(api_key=NO_KEY, max_retries=theirs.max_retries, timeout=theirs.timeout)
