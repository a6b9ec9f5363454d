"""Count the tokens of texts and conversations as the core that would answer does.

A local core counts itself; for a remote one its server counts, or the tokenizer that is
configured for it, or the kernel estimates from earlier answers. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from aios_adapters import resolve_model
from aios_core import Kernel, Message, PromptSize, build_llm_request, default_kernel
from aios_core.launch import Patches
from langchain_aios import translation

_FRAME = "x"  # a text is measured together with this one, since a prompt may not be empty


Measure = Callable[..., PromptSize]  # (messages, model=, tools=)


def measure_of(kernel: Kernel) -> Measure:
    """Return the function by which a kernel measures prompts, as `agent.llm.measure` does."""
    return lambda messages, **about: kernel.measure_prompt(build_llm_request(messages, **about))


def count_text(measure: Measure, model: str | None, text: str) -> int:
    """Count the tokens that a text adds to a prompt."""
    if not text:
        return 0
    framed = _count(measure, model, [Message("user", f"{_FRAME} {text}")])
    return framed - _count(measure, model, [Message("user", _FRAME)])


def count_messages(
    measure: Measure,
    model: str | None,
    messages: Sequence[BaseMessage],
    tools: Sequence[Any] | None = None,
) -> int:
    """Count the tokens of a prompt with these messages and tools."""
    offered = [convert_to_openai_tool(tool) for tool in tools or ()]
    known = translation.to_messages(messages)
    return _count(measure, model, known, translation.to_tools(offered))


def _count(
    measure: Measure, model: str | None, messages: Sequence[Message], tools: Sequence[Any] = ()
) -> int:
    return measure(messages, model=model, tools=tools).num_tokens


# --- models of providers, which would ask the network ------------------


def patch_counts(owner: Any, patches: Patches) -> None:
    """Use the kernel's counts for a substituted model, unless the program brings a tokenizer."""
    native_text = owner.get_num_tokens
    native_messages = owner.get_num_tokens_from_messages

    def get_num_tokens(self: Any, text: str) -> int:
        if self.custom_get_token_ids is not None:
            num_tokens: int = native_text(self, text)
            return num_tokens
        kernel = default_kernel()
        return count_text(measure_of(kernel), resolve_model(kernel, _name_of(self)), text)

    def get_num_tokens_from_messages(
        self: Any, messages: Sequence[BaseMessage], tools: Any = None, **more: Any
    ) -> int:
        if self.custom_get_token_ids is not None:
            num_tokens: int = native_messages(self, messages, tools, **more)
            return num_tokens
        kernel = default_kernel()
        model = resolve_model(kernel, _name_of(self))
        return count_messages(measure_of(kernel), model, messages, tools)

    patches.replace(owner, "get_num_tokens", get_num_tokens)
    patches.replace(owner, "get_num_tokens_from_messages", get_num_tokens_from_messages)


def _name_of(theirs: Any) -> str:
    """Return the model that a provider's class names."""
    return str(getattr(theirs, "model_name", None) or theirs.model)
