"""`aios run` for LangChain: scripts that use `ChatOpenAI` run on the kernel unmodified.

`install` replaces the four methods by which `langchain_openai`'s chat models talk
to OpenAI, on the classes, so that `init_chat_model("openai:...")`, `create_agent`
and instances made earlier are served as well. Where langchain_openai is not
imported yet, it happens when it is; it is never imported from here. Everything
else of those classes (binding tools, structured output, callbacks) stays theirs.

No key is needed and nothing is sent anywhere. A model name that no core serves is
answered by the kernel's default model, which is said once, on standard error.
Arguments that mean something to OpenAI alone are passed to the core as `extra`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils.pydantic import is_basemodel_subclass

from aios_core.errors import NoSuchObject
from langchain_aios.chat_models import ChatAIOS

_MODULE: Final = "langchain_openai.chat_models.base"
_NO_KEY: Final = "no key is needed on the kernel"
# What OpenAI's client is told about the transport, and no core about the answer.
_OF_THE_WIRE: Final = ("stream_usage", "stream_options", "n", "service_tier", "store", "user")

_lock = threading.Lock()  # guards _undo and _hook
_undo: list[Callable[[], None]] = []
_hook: _WhenImported | None = None
_foreign: set[str] = set()  # model names that no core serves


def install() -> None:
    """Put `langchain_openai`'s chat models on the kernel, at once or when imported. Idempotent."""
    global _hook  # noqa: PLW0603 - there is one import system
    with _lock:
        if _undo or _hook:
            return
        if (module := sys.modules.get(_MODULE)) is not None:
            _patch(module)
        else:
            _hook = _WhenImported()
            sys.meta_path.insert(0, _hook)


def uninstall() -> None:
    """Give the classes back what they had. Idempotent."""
    global _hook  # noqa: PLW0603
    with _lock:
        if _hook is not None:
            with suppress(ValueError):
                sys.meta_path.remove(_hook)
            _hook = None
        while _undo:
            _undo.pop()()
        _foreign.clear()


class _WhenImported(MetaPathFinder):
    """Patches the module right after its own code has run, before its importer goes on."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            with _lock:
                if _hook is self and not _undo:
                    _patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _patch(module: ModuleType) -> None:
    methods = {
        "_generate": _generate,
        "_agenerate": _agenerate,
        "_stream": _stream,
        "_astream": _astream,
    }
    for owner in (module.BaseChatOpenAI, module.ChatOpenAI):
        for name, method in methods.items():
            _replace(owner, name, method)
    _replace(module.ChatOpenAI, "__init__", _without_key(module.ChatOpenAI.__init__))


def _replace(owner: type, name: str, value: object) -> None:
    """Set an attribute of a class, and remember how it was."""
    if name in vars(owner):
        was = vars(owner)[name]
        _undo.append(lambda: setattr(owner, name, was))
    else:
        _undo.append(lambda: delattr(owner, name))
    setattr(owner, name, value)


def _without_key(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that asks for no key; OpenAI's client refuses to be built without one."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 - it becomes one
        has_key = os.environ.get("OPENAI_API_KEY") or values.keys() & {"api_key", "openai_api_key"}
        if not has_key:
            values["api_key"] = _NO_KEY
        init(self, *args, **values)

    return __init__


# --- the four methods: `self` is a chat model of langchain_openai ------------------------------


def _generate(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> ChatResult:
    call = _Call(self, kwargs)
    try:
        result = call.model._generate(messages, stop, run_manager, **call.kwargs)  # noqa: SLF001
    except NoSuchObject as exc:
        result = call.instead(exc)._generate(messages, stop, run_manager, **call.kwargs)  # noqa: SLF001
    return call.finished(result)


async def _agenerate(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> ChatResult:
    call = _Call(self, kwargs)
    try:
        result = await call.model._agenerate(messages, stop, run_manager, **call.kwargs)  # noqa: SLF001
    except NoSuchObject as exc:
        other = call.instead(exc)
        result = await other._agenerate(messages, stop, run_manager, **call.kwargs)  # noqa: SLF001
    return call.finished(result)


def _stream(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> Iterator[ChatGenerationChunk]:
    call = _Call(self, kwargs)
    try:
        for chunk in call.model._stream(messages, stop, run_manager, **call.kwargs):  # noqa: SLF001
            yield call.streamed(chunk)
    except NoSuchObject as exc:  # comes before the first chunk
        other = call.instead(exc)
        for chunk in other._stream(messages, stop, run_manager, **call.kwargs):  # noqa: SLF001
            yield call.streamed(chunk)


async def _astream(
    self: Any,
    messages: list[BaseMessage],
    stop: list[str] | None = None,
    run_manager: Any = None,
    **kwargs: Any,
) -> AsyncIterator[ChatGenerationChunk]:
    call = _Call(self, kwargs)
    try:
        async for chunk in call.model._astream(messages, stop, run_manager, **call.kwargs):  # noqa: SLF001
            yield call.streamed(chunk)
    except NoSuchObject as exc:
        other = call.instead(exc)
        async for chunk in other._astream(messages, stop, run_manager, **call.kwargs):  # noqa: SLF001
            yield call.streamed(chunk)


class _Call:
    """One call of a foreign chat model, as one of `ChatAIOS`."""

    def __init__(self, theirs: Any, kwargs: Mapping[str, Any]) -> None:
        said = {**theirs.model_kwargs, **kwargs}
        asked = said.pop("model", None) or theirs.model_name
        self.kwargs = {name: said[name] for name in said if name not in _OF_THE_WIRE}
        self._wanted = said.get("response_format")
        self._text = ""
        timeout = theirs.request_timeout
        self._settings = {
            "temperature": theirs.temperature,
            "top_p": theirs.top_p,
            "max_tokens": theirs.max_tokens,
            "seed": theirs.seed,
            "stop": theirs.stop,
            "timeout": timeout if isinstance(timeout, int | float) else None,
        }
        self.model = self._chat(None if asked in _foreign else asked)

    def _chat(self, model: str | None) -> ChatAIOS:
        return ChatAIOS(model=model, **self._settings)

    def instead(self, error: NoSuchObject) -> ChatAIOS:
        """Who answers for a model that no core serves. Raises anything else that does not exist."""
        asked = self.model.model
        if error.kind != "model" or asked is None or error.name != asked:
            raise error
        if asked not in _foreign:
            _foreign.add(asked)
            sys.stderr.write(
                f"aios: no core serves {asked!r}; the kernel's default model answers in its place. "
                f"The cores serve: {', '.join(error.known)}\n"
            )
        return self._chat(None)

    def finished(self, result: ChatResult) -> ChatResult:
        """With the parsed object, where langchain_openai looks for it."""
        message = result.generations[0].message
        self._add_parsed(message, str(message.content))
        return result

    def streamed(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        """The same, in the last chunk."""
        message = chunk.message
        self._text += str(message.content)
        if isinstance(message, AIMessageChunk) and message.chunk_position == "last":
            self._add_parsed(message, self._text)
        return chunk

    def _add_parsed(self, message: BaseMessage, text: str) -> None:
        if self._wanted is None or not text:
            return
        with suppress(ValueError):  # cut off by a token limit: their parser says so
            is_model = isinstance(self._wanted, type) and is_basemodel_subclass(self._wanted)
            parsed = self._wanted.model_validate_json(text) if is_model else json.loads(text)
            message.additional_kwargs["parsed"] = parsed
