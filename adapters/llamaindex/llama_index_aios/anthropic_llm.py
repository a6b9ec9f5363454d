"""Run programs with `llama_index.llms.anthropic.Anthropic` and its subclasses on the kernel.

The methods that call Anthropic are replaced. LlamaIndex's own code still writes the request and
reads the answer, and the kernel replaces the endpoint, so every option of a constructor or a call
reaches the core. If no core serves the model, the kernel's default model answers, which is
reported once on standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from aios_adapters import AgentRef, AnthropicTransport, RunHold
from aios_core.launch import Patches
from llama_index_aios.callers import agent_ref, claim
from llama_index_aios.openai_llm import AsyncSteps, Steps, windowed


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Replace the provider by the kernel's cores."""
    owner = module.Anthropic
    for what, on_kernel in (
        ("chat", _whole),
        ("achat", _awhole),
        ("stream_chat", _steps),
        ("astream_chat", _asteps),
        ("structured_predict", _whole),
        ("astructured_predict", _awhole),
        ("stream_structured_predict", _steps),
        ("astream_structured_predict", _asteps),
    ):
        patches.replace(owner, what, on_kernel(getattr(owner, what)))
    patches.replace(owner, "tokenizer", property(_KernelTokenizer))
    patches.replace(owner, "metadata", windowed(owner.metadata))


class _KernelTokenizer:
    """Counts tokens as the core that would answer does; the ids that it returns mean nothing."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def encode(self, text: str, *_: Any, **__: Any) -> list[int]:
        """Return as many ids as the text has tokens."""
        with AnthropicTransport(agent_ref()) as transport, transport.raising():
            client = transport.client_for(self._llm._client)  # noqa: SLF001
            asked: Any = [{"role": "user", "content": text}]
            counted = client.messages.count_tokens(messages=asked, model=self._llm.model)
        return [1] * counted.input_tokens


def _whole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    def asking(self: Any, *asked: Any, **kwargs: Any) -> Any:
        with AnthropicTransport(agent_ref()) as transport, transport.raising():
            return ask(_on_kernel(self, transport), *asked, **kwargs)

    return asking


def _awhole(ask: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(ask)
    async def asking(self: Any, *asked: Any, **kwargs: Any) -> Any:
        with AnthropicTransport(agent_ref().located()) as transport, transport.raising():
            return await ask(_on_kernel(self, transport), *asked, **kwargs)

    return asking


def _steps(ask: Callable[..., Any]) -> Callable[..., Any]:
    def steps(
        theirs: Any, asked: Any, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> Steps:
        with hold, AnthropicTransport(agent) as transport, transport.raising():
            yield from ask(_on_kernel(theirs, transport), *asked, **kwargs)

    @wraps(ask)
    def asking(self: Any, *asked: Any, **kwargs: Any) -> Steps:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _asteps(ask: Callable[..., Any]) -> Callable[..., Any]:
    async def steps(
        theirs: Any, asked: Any, kwargs: dict[str, Any], hold: RunHold, agent: AgentRef
    ) -> AsyncSteps:
        with hold, AnthropicTransport(agent) as transport, transport.raising():
            async for step in await ask(_on_kernel(theirs, transport), *asked, **kwargs):
                yield step

    @wraps(ask)
    async def asking(self: Any, *asked: Any, **kwargs: Any) -> AsyncSteps:
        return steps(self, asked, kwargs, *claim(agent_ref()))

    return asking


def _on_kernel(theirs: Any, transport: AnthropicTransport) -> Any:
    """Return a copy of an LLM that sends its requests to the kernel."""
    llm = theirs.model_copy()
    llm._client = transport.client_for(theirs._client)  # noqa: SLF001 - the one seam there is
    llm._aclient = transport.aclient_for(theirs._aclient)  # noqa: SLF001
    return llm
