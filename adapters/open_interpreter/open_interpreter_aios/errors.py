"""Raise the kernel's errors as those of LiteLLM, which Open Interpreter's programs catch."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import aios_adapters  # its names for OpenAI's client import that client on first use
from aios_core.errors import ContentFiltered, ContextOverflow, KernelError

# LiteLLM's own classes, for which OpenAI's client has only a general one.
_OWN: Final = (
    (ContextOverflow, "ContextWindowExceededError"),
    (ContentFiltered, "ContentPolicyViolationError"),
)
# LiteLLM names its classes as OpenAI's client does, but for this one.
_OTHER_NAMES: Final = {"APITimeoutError": "Timeout"}
_WITHOUT_RESPONSE: Final = ("APIConnectionError", "Timeout")


def as_litellm_error(error: KernelError) -> Exception:
    """Return an error that is both the kernel's and the one LiteLLM raises for the same reason.

    A reason that LiteLLM has no class for gives the error of OpenAI's client.
    """
    name = _name_of(error)
    kind = getattr(import_module("litellm.exceptions"), name, None)
    if kind is None:
        return aios_adapters.as_openai_error(error)
    facts: dict[str, Any] = {"message": str(error), "llm_provider": "aios", "model": ""}
    if name not in _WITHOUT_RESPONSE:
        facts["response"] = getattr(aios_adapters.as_openai_error(error), "response", None)
    theirs = kind(**facts)
    theirs.message = str(error)  # without the name of LiteLLM's class before it
    return aios_adapters.as_both(error, theirs)


def _name_of(error: KernelError) -> str:
    for ours, name in _OWN:
        if isinstance(error, ours):
            return name
    name = aios_adapters.openai_kind_of(error).__name__
    return _OTHER_NAMES.get(name, name)
