"""pytest plug-in: LlamaIndex's mock LLMs answer through the kernel.

    pytest -p compat_bench.reroute.llamaindex tests

The chats of `llama_index.core.llms.mock`'s classes, and of those that a suite defines, whole or
streamed, become calls of `AIOSLLM`; see `switchboard`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms import LLM, CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.llms.aios import AIOSLLM

from aios_core import Delta, Message
from compat_bench.reroute.switchboard import (
    KEY,
    Switchboard,
    answering,
    is_answering,
    own_asteps,
    own_steps,
)
from compat_bench.reroute.wrapping import is_of_suite, on_each_subclass, replace, subclasses
from llama_index_aios.translation import to_messages

_MOCKS: Final = "llama_index.core.llms.mock"
_METHODS: Final = ("chat", "achat", "stream_chat", "astream_chat")
_DEFAULTS: Final = tuple(
    getattr(kind, name)
    for kind in (LLM, CustomLLM, FunctionCallingLLM)
    for name in _METHODS
    if hasattr(kind, name)
)


def _said(message: ChatMessage) -> Message:
    (said,) = to_messages([message])
    return said


def _message_of(response: ChatResponse) -> Message:
    return _said(response.message)


def _delta_of(response: ChatResponse) -> Delta:
    return Delta(response.delta or "")


def _join(responses: list[ChatResponse]) -> Message:
    return _said(responses[-1].message)  # each holds the whole text so far


switchboard: Final = Switchboard(_message_of, _delta_of, _join)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Reroute the mocks that are there, and each that will be."""
    root = Path.cwd()
    on_each_subclass(LLM, "__pydantic_init_subclass__", lambda mock: _reroute_if_mock(mock, root))
    __import__(_MOCKS)
    for mock in subclasses(LLM):
        _reroute_if_mock(mock, root)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many calls went through the kernel."""
    terminalreporter.write_line(f"rerouted: {switchboard.report()}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()


def _reroute_if_mock(kind: Any, root: Path) -> None:
    if kind.__module__ == _MOCKS or is_of_suite(kind, root):
        for name, wrap in zip(_METHODS, (_chat, _achat, _stream_chat, _astream_chat), strict=True):
            replace(kind, name, wrap, _DEFAULTS)


def _chat(original: Callable[..., ChatResponse]) -> Callable[..., ChatResponse]:
    def chat(self: Any, messages: Any, **kwargs: Any) -> ChatResponse:
        if is_answering(self):
            return original(self, messages, **kwargs)

        def theirs() -> ChatResponse:
            with answering(self):
                return original(self, messages, **kwargs)

        return switchboard.answer(lambda n: _ours().answer(messages, **_asked(kwargs, n)), theirs)

    return chat


def _achat(original: Callable[..., Awaitable[ChatResponse]]) -> Callable[..., Any]:
    async def achat(self: Any, messages: Any, **kwargs: Any) -> ChatResponse:
        if is_answering(self):
            return await original(self, messages, **kwargs)

        async def theirs() -> ChatResponse:
            with answering(self):
                return await original(self, messages, **kwargs)

        return await switchboard.aanswer(
            lambda n: _ours().aanswer(messages, **_asked(kwargs, n)), theirs
        )

    return achat


def _stream_chat(original: Callable[..., Any]) -> Callable[..., Any]:
    def stream_chat(self: Any, messages: Any, **kwargs: Any) -> Iterator[ChatResponse]:
        if is_answering(self):
            steps: Iterator[ChatResponse] = original(self, messages, **kwargs)
            return steps
        return switchboard.steps(
            lambda n: _ours().stream_steps(messages, **_asked(kwargs, n)),
            lambda: own_steps(self, original(self, messages, **kwargs)),
        )

    return stream_chat


def _astream_chat(original: Callable[..., Any]) -> Callable[..., Any]:
    async def astream_chat(self: Any, messages: Any, **kwargs: Any) -> AsyncIterator[ChatResponse]:
        if is_answering(self):
            steps: AsyncIterator[ChatResponse] = await original(self, messages, **kwargs)
            return steps

        async def theirs() -> AsyncIterator[ChatResponse]:
            with answering(self):
                steps = await original(self, messages, **kwargs)
            async for step in own_asteps(self, steps):
                yield step

        return switchboard.asteps(
            lambda n: _ours().astream_steps(messages, **_asked(kwargs, n)), theirs
        )

    return astream_chat


def _ours() -> AIOSLLM:
    return AIOSLLM(kernel=switchboard.kernel())


def _asked(kwargs: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the arguments for the kernel: the number of the call, and the converted tools."""
    asked: dict[str, Any] = {KEY: number}
    with suppress(Exception):  # a suite's own idea of a tool is not the kernel's business
        asked["tools"] = [tool for tool in kwargs.get("tools") or () if "function" in tool]
    return asked
