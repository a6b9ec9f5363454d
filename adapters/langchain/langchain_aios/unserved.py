"""Models of a provider that no patch of ours serves: named when they are first called.

`ChatAnthropic`, `ChatOllama` and their like ask their provider themselves, and a program
that was put on the kernel would not notice. The public methods of LangChain's own base classes
are wrapped, so that a class counts whenever it was defined. Nothing here imports LangChain.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

from aios_core.adapting import Patches, give_notice

log = logging.getLogger(__name__)

_OURS: Final = __name__.partition(".")[0]
_ASKING: Final = ("_generate", "_agenerate", "_stream", "_astream")  # what a provider's class has
_ENTRIES: Final = (
    "generate",
    "agenerate",
    "stream",
    "astream",
    "stream_events",
    "astream_events",
)


def watch_chat_models(module: ModuleType, patches: Patches) -> None:
    """Name the chat models that go past the kernel, at their first call."""
    _watch(module.BaseChatModel, patches)


def watch_completion_models(module: ModuleType, patches: Patches) -> None:
    """Name the completion models that go past the kernel, at their first call."""
    _watch(module.BaseLLM, patches)


def _watch(owner: Any, patches: Patches) -> None:
    for name in _ENTRIES:
        if hasattr(owner, name):
            patches.replace(owner, name, _noticing(getattr(owner, name)))


def _noticing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def noticed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_served(self):
            _name(type(self))
        return method(self, *args, **kwargs)

    return noticed


def is_served(model: Any) -> bool:
    """Whether the kernel hears of a model's calls, or the model only pretends to be one."""
    kinds = type(model).__mro__
    if any(_is_ours(vars(kind).get(name)) for kind in kinds for name in _ASKING):
        return True
    if any("fake" in f"{kind.__module__}.{kind.__qualname__}".lower() for kind in kinds):
        return True
    inner = [value for value in vars(model).values() if hasattr(value, "generate_prompt")]
    return any(map(is_served, inner))  # it hands its calls on


def _is_ours(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).partition(".")[0] == _OURS


def _name(kind: type) -> None:
    give_notice(
        log,
        (__name__, kind),
        f"{kind.__name__} ({kind.__module__.partition('.')[0]}) asks its provider itself, past the "
        "kernel, which neither schedules nor counts nor limits these calls. To have them on the "
        "kernel, use ChatOpenAI or langchain_aios.ChatAIOS in its place, with a core for the "
        "provider's OpenAI-compatible endpoint (AIOS_BASE_URL and AIOS_MODEL, or aios.toml), or "
        "ChatOpenAI with that base_url in the mode 'admit', which keeps the provider and its key",
    )
