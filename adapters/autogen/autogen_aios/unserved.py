"""Warn of clients that no patch covers, at their first call.

AutoGen's clients define `create` and `create_stream` themselves, so these are wrapped in
every class that defines them, now or later; all of Agent Framework's use a method of their base;
classic accepts any class that a program registers. Imports none of the three frameworks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from types import ModuleType
from typing import Any, Final

from aios_adapters import is_served, name_unserved
from aios_core.launch import Patches

_OURS: Final = __name__.partition(".")[0]
_CREATING: Final = ("create", "create_stream")
_RESPONDING: Final = ("_inner_get_response",)
_INSTEAD: Final = "OpenAIChatCompletionClient or autogen_aios.AIOSChatCompletionClient"
_CALLING: Final = ("create",)
_INSTEAD_OF_CUSTOM: Final = (
    "an entry without model_client_cls or with model_client_cls 'AIOSModelClient'"
)
_INSTEAD_OF_CHAT: Final = (
    "OpenAIChatCompletionClient or autogen_aios.agent_framework.AIOSChatClient"
)


def watch_autogen(module: ModuleType, patches: Patches) -> None:
    """Warn of clients of `autogen_core.models._model_client` that bypass the kernel."""
    base = module.ChatCompletionClient
    initialized = base.__init_subclass__

    def watch_later(cls: Any, /, **kwargs: Any) -> None:
        initialized.__func__(cls, **kwargs)
        _watch(cls, base, patches)

    patches.replace(base, "__init_subclass__", classmethod(watch_later))
    for kind in _descendants(base):
        _watch(kind, base, patches)


def watch_agent_framework(module: ModuleType, patches: Patches) -> None:
    """Warn of clients of `agent_framework._clients` that bypass the kernel."""
    base = module.BaseChatClient
    get_response = base.get_response

    @wraps(get_response)
    def noticing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_served(type(self), _RESPONDING, _OURS):
            name_unserved(type(self), _INSTEAD_OF_CHAT)
        return get_response(self, *args, **kwargs)

    patches.replace(base, "get_response", noticing)


def watch_classic(wrapper: Any, patches: Patches) -> None:
    """Warn of client classes that a program registers with classic's `OpenAIWrapper`."""
    register = wrapper.register_model_client

    @wraps(register)
    def noticing(self: Any, model_client_cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_served(model_client_cls, _CALLING, _OURS):
            _watch_custom(model_client_cls, patches)
        return register(self, model_client_cls, *args, **kwargs)

    patches.replace(wrapper, "register_model_client", noticing)


def _watch_custom(kind: Any, patches: Patches) -> None:
    create = kind.create
    if getattr(create, "__globals__", {}).get("__name__") == __name__:
        return  # wrapped already, for another entry

    @wraps(create)
    def noticed(self: Any, *args: Any, **kwargs: Any) -> Any:
        name_unserved(type(self), _INSTEAD_OF_CUSTOM)
        return create(self, *args, **kwargs)

    patches.replace(kind, "create", noticed)


def _descendants(kind: type) -> list[type]:
    children: list[type] = kind.__subclasses__()
    return [*children, *(each for child in children for each in _descendants(child))]


def _watch(kind: type, base: type, patches: Patches) -> None:
    for name in _CREATING:
        if name in vars(kind):
            patches.replace(kind, name, _noticing(vars(kind)[name], base))


def _noticing(method: Callable[..., Any], base: type) -> Callable[..., Any]:
    def notice(client: Any) -> None:
        delegates = any(isinstance(value, base) for value in vars(client).values())
        if not (delegates or is_served(type(client), _CREATING, _OURS)):
            name_unserved(type(client), _INSTEAD)

    if iscoroutinefunction(method):

        @wraps(method)
        async def anoticed(self: Any, *args: Any, **kwargs: Any) -> Any:
            notice(self)
            return await method(self, *args, **kwargs)

        return anoticed

    @wraps(method)
    def noticed(self: Any, *args: Any, **kwargs: Any) -> Any:
        notice(self)
        return method(self, *args, **kwargs)

    return noticed
