"""Mode "passthrough" for `llama_index.llms.anthropic`, which keeps its provider and key.

Next to chats, its class has methods for structured answers that call Anthropic themselves, for
models with structured outputs; for other models these methods chat.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from llama_index.core.base.llms.types import ChatMessage

from aios_adapters import PassthroughCall
from aios_core import Usage
from aios_core.launch import Patches
from llama_index_aios.callers import agent_ref
from llama_index_aios.passthrough import aprovider_slot, provider_slot, schedule


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of `llama_index.llms.anthropic.base.Anthropic`."""
    owner, answers_itself = module.Anthropic, module.is_anthropic_structured_output_supported
    schedule(owner, ("chat",), patches, prefix="")
    for name in ("structured_predict", "stream_structured_predict"):
        scheduled = _structured(getattr(owner, name), answers_itself)
        patches.replace(owner, name, scheduled)
        ascheduled = _astructured(getattr(owner, f"a{name}"), answers_itself)
        patches.replace(owner, f"a{name}", ascheduled)


def _structured(ask: Callable[..., Any], answers_itself: Callable[[str], bool]) -> Any:
    @wraps(ask)
    def asking(
        self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        if not answers_itself(self.model):
            return ask(self, output_cls, prompt, llm_kwargs, **prompt_args)
        asked: list[ChatMessage] = prompt.format_messages(**prompt_args)
        with provider_slot(self, asked, llm_kwargs or {}, agent_ref()) as slot:
            answer = ask(self, output_cls, prompt, llm_kwargs, **prompt_args)
            _record(slot, answer)
            return answer

    return asking


def _astructured(ask: Callable[..., Any], answers_itself: Callable[[str], bool]) -> Any:
    @wraps(ask)
    async def asking(
        self: Any, output_cls: Any, prompt: Any, llm_kwargs: Any = None, **prompt_args: Any
    ) -> Any:
        if not answers_itself(self.model):
            return await ask(self, output_cls, prompt, llm_kwargs, **prompt_args)
        asked: list[ChatMessage] = prompt.format_messages(**prompt_args)
        async with aprovider_slot(self, asked, llm_kwargs or {}, agent_ref().located()) as slot:
            answer = await slot.run(ask(self, output_cls, prompt, llm_kwargs, **prompt_args))
            _record(slot, answer)
            return answer

    return asking


def _record(slot: PassthroughCall, answer: Any) -> None:
    """Record a structured answer. LlamaIndex does not keep its usage."""
    as_json = getattr(answer, "model_dump_json", None)  # a stream has none
    slot.record_usage(Usage(), as_json() if as_json else "")
