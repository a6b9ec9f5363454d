"""Warn of LLMs that no patch covers, at their first call.

LlamaIndex reports a span of every call of every LLM, with the LLM itself.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Final

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index_instrumentation import get_dispatcher

from aios_adapters import is_served, name_unserved
from aios_core.launch import Patches

_OURS: Final = __name__.partition(".")[0]
_ASKING: Final = ("answer", "_chat", "_achat", "_stream_chat", "_astream_chat")
_INSTEAD: Final = "OpenAI, OpenAILike or llama_index.llms.aios.AIOSLLM"

is_watching = False  # between `install()` and `uninstall()`


class UnservedWatch(BaseSpanHandler[BaseSpan]):
    """A span handler that warns of LLMs that bypass the kernel, and keeps no span."""

    def span_enter(
        self,
        id_: str,
        bound_args: Any,  # noqa: ARG002 - LlamaIndex's signature
        instance: Any = None,
        parent_id: str | None = None,  # noqa: ARG002
        tags: dict[str, Any] | None = None,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Check which LLM is called."""
        del id_
        if is_watching and isinstance(instance, BaseLLM):
            notice(instance)

    def span_exit(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""

    def span_drop(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""

    def new_span(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""

    def prepare_to_exit_span(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""

    def prepare_to_drop_span(self, *_: Any, **_more: Any) -> None:
        """Do nothing: no spans are kept."""


def notice(llm: Any) -> None:
    """Warn of an LLM that calls its provider directly, unless it delegates to another LLM."""
    inner = [value for value in vars(llm).values() if _is_model(value)]
    if not inner and not is_served(type(llm), _ASKING, _OURS):
        name_unserved(type(llm), _INSTEAD)


def _is_model(value: Any) -> bool:
    return isinstance(value, BaseLLM) or hasattr(value, "generate_prompt")  # LangChain's


def watch(_: ModuleType, patches: Patches) -> None:
    """Warn of LLMs that bypass the kernel, from now on."""
    root = get_dispatcher()
    if not any(isinstance(handler, UnservedWatch) for handler in root.span_handlers):
        root.add_span_handler(UnservedWatch())
    patches.replace(sys.modules[__name__], "is_watching", True)
