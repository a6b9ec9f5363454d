"""Scripts that use Agent Framework's OpenAI clients run on the kernel unmodified.

The method by which `OpenAIChatClient` and `OpenAIChatCompletionClient` ask is
replaced on their classes; function calls, middleware and telemetry stay theirs. No
key is needed and nothing is sent anywhere. A model name that no core serves is
answered by the kernel's default model, which is said once, on standard error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from aios_core.adapting import Patches
from autogen_aios.agent_framework import RawAIOSChatClient, noting_the_agent

_NO_KEY: Final = "no key is needed on the kernel"
_CLASSES: Final = ("OpenAIChatClient", "OpenAIChatCompletionClient")


def substitute(module: ModuleType, patches: Patches) -> None:
    """Put the chat clients of a module of `agent_framework_openai` on the kernel."""
    for name in _CLASSES:
        if (client := getattr(module, name, None)) is not None:
            raw = getattr(module, f"Raw{name}")
            patches.replace(raw, "_inner_get_response", _inner_get_response)
            patches.replace(client, "get_response", noting_the_agent(client.get_response))
            patches.replace(client, "__init__", _without_key(client.__init__))


def _inner_get_response(self: Any, **arguments: Any) -> Any:
    ours = RawAIOSChatClient(model=self.model or None, is_substitute=True)
    return ours._inner_get_response(**arguments)  # noqa: SLF001 - the framework's own seam


def _without_key(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that asks for no key, and for no model."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - it becomes one
        if not os.environ.get("OPENAI_API_KEY"):
            values.setdefault("api_key", _NO_KEY)
        init(self, *args, **values)

    return __init__
