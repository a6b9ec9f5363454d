"""Warn of models that no patch covers, at their first call.

`ChatOllama`, `ChatMistralAI` and others call their provider directly, which the user of a
program on the kernel would not notice. The public methods of LangChain's own base classes
are wrapped, which covers classes that are defined later too. Nothing here imports LangChain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

from aios_adapters import is_served, name_unserved
from aios_core.launch import Patches

_OURS: Final = __name__.partition(".")[0]
_ASKING: Final = (
    "_generate",
    "_agenerate",
    "_stream",
    "_astream",
)  # the methods that a provider's class overrides
_INSTEAD: Final = "ChatOpenAI or langchain_aios.ChatAIOS"
_OTHERWISE: Final = (
    "ChatOpenAI with that base_url in the mode 'passthrough', which keeps the provider and its key"
)
_ENTRIES: Final = (
    "generate",
    "agenerate",
    "stream",
    "astream",
    "stream_events",
    "astream_events",
)


def watch_chat_models(module: ModuleType, patches: Patches) -> None:
    """Warn of chat models that bypass the kernel, at their first call."""
    _watch(module.BaseChatModel, patches)


def watch_completion_models(module: ModuleType, patches: Patches) -> None:
    """Warn of completion models that bypass the kernel, at their first call."""
    _watch(module.BaseLLM, patches)


def _watch(owner: Any, patches: Patches) -> None:
    for name in _ENTRIES:
        if hasattr(owner, name):
            patches.replace(owner, name, _noticing(getattr(owner, name)))


def _noticing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noticed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_served(self):
            name_unserved(type(self), _INSTEAD, _OTHERWISE)
        return method(self, *args, **kwargs)

    return noticed


def _is_served(model: Any) -> bool:
    """Return whether the kernel schedules the calls of a model, or of a model inside it."""
    if is_served(type(model), _ASKING, _OURS):
        return True
    inner = [value for value in vars(model).values() if hasattr(value, "generate_prompt")]
    return any(map(_is_served, inner))  # it delegates its calls
