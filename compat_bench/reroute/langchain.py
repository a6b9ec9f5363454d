"""pytest plug-in: LangChain's and LangGraph's fake chat models answer through the kernel.

    pytest -p compat_bench.reroute.langchain tests

Every chat model class that a test suite defines, and those of
`langchain_core.language_models.fake_chat_models`, is rerouted: a call of any of its four methods
becomes a syscall of `ChatAIOS`; see `switchboard`. `InMemorySaver` is
replaced by one that keeps and finds everything by `AIOSSaver`, and `InMemoryStore` by
`AIOSGraphStore`, so that checkpoints and items are syscalls too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from aios_core import Delta, Message
from aios_core.messages import ToolCallDelta
from compat_bench.reroute import langgraph
from compat_bench.reroute.switchboard import (
    KEY,
    Switchboard,
    answering,
    is_answering,
    own_asteps,
    own_steps,
)
from compat_bench.reroute.wrapping import is_of_suite, on_each_subclass, replace, subclasses
from langchain_aios import ChatAIOS
from langchain_aios.translation import to_messages

_FAKES: Final = "langchain_core.language_models.fake_chat_models"
_METHODS: Final = ("_generate", "_agenerate", "_stream", "_astream")
_DEFAULTS: Final = tuple(getattr(BaseChatModel, name) for name in _METHODS)


# --- answers in the kernel's words ---------------------------------------------------------------


def _message_of(result: ChatResult) -> Message:
    return _said(result.generations[0].message)


def _said(message: Any) -> Message:
    if not isinstance(message, AIMessage):
        raise TypeError(f"a fake answered with a {type(message).__name__}")
    (said,) = to_messages([message])
    return said


def _delta_of(chunk: ChatGenerationChunk) -> Delta:
    message: Any = chunk.message
    calls = tuple(
        ToolCallDelta(part["index"], part["id"], part["name"], part["args"] or "")
        for part in message.tool_call_chunks
    )
    said = _said(AIMessage(message.content, additional_kwargs=message.additional_kwargs))
    return Delta(said.content, calls, said.reasoning, said.refusal or "", said.thinking)


def _join(chunks: list[ChatGenerationChunk]) -> Message:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return _said(whole.message)


switchboard: Final = Switchboard(_message_of, _delta_of, _join)


# --- pytest --------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Put our saver and store in the places of those in memory, before anybody imports them."""
    with suppress(ImportError):  # a suite of langchain-core has none
        langgraph.reroute(switchboard.kernel)
    root = Path.cwd()
    on_each_subclass(
        BaseChatModel, "__pydantic_init_subclass__", lambda fake: _reroute_if_fake(fake, root)
    )
    __import__(_FAKES)
    for fake in subclasses(BaseChatModel):
        _reroute_if_fake(fake, root)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many calls went through the kernel."""
    kept = f"{langgraph.num_savers()} savers, {langgraph.num_stores()} stores"
    terminalreporter.write_line(f"rerouted: {switchboard.report()}, {kept}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()


# --- the four methods ----------------------------------------------------------------------------


def _reroute_if_fake(kind: Any, root: Path) -> None:
    if kind.__module__ == _FAKES or is_of_suite(kind, root):
        for name, wrap in zip(_METHODS, (_generate, _agenerate, _stream, _astream), strict=True):
            replace(kind, name, wrap, _DEFAULTS)


def _generate(original: Callable[..., ChatResult]) -> Callable[..., ChatResult]:
    def generate(self: Any, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        if is_answering(self):
            return original(self, messages, *args, **kwargs)

        def theirs() -> ChatResult:
            with answering(self):
                return original(self, messages, *args, **kwargs)

        return switchboard.answer(
            lambda n: _ours()._generate(messages, **_asked(args, kwargs, n)),  # noqa: SLF001
            theirs,
        )

    return generate


def _agenerate(original: Callable[..., Any]) -> Callable[..., Any]:
    async def agenerate(self: Any, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        if is_answering(self):
            result: ChatResult = await original(self, messages, *args, **kwargs)
            return result

        async def theirs() -> ChatResult:
            with answering(self):
                result: ChatResult = await original(self, messages, *args, **kwargs)
                return result

        return await switchboard.aanswer(
            lambda n: _ours()._agenerate(messages, **_asked(args, kwargs, n)),  # noqa: SLF001
            theirs,
        )

    return agenerate


def _stream(original: Callable[..., Any]) -> Callable[..., Any]:
    def stream(
        self: Any, messages: Any, *args: Any, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        if is_answering(self):
            yield from original(self, messages, *args, **kwargs)
            return
        yield from switchboard.steps(
            lambda n: _ours()._stream(messages, **_asked(args, kwargs, n)),  # noqa: SLF001
            lambda: own_steps(self, original(self, messages, *args, **kwargs)),
        )

    return stream


def _astream(original: Callable[..., Any]) -> Callable[..., Any]:
    async def astream(
        self: Any, messages: Any, *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        if is_answering(self):
            async for chunk in original(self, messages, *args, **kwargs):
                yield chunk
            return
        async for chunk in switchboard.asteps(
            lambda n: _ours()._astream(messages, **_asked(args, kwargs, n)),  # noqa: SLF001
            lambda: own_asteps(self, original(self, messages, *args, **kwargs)),
        ):
            yield chunk

    return astream


def _ours() -> ChatAIOS:
    return ChatAIOS(kernel=switchboard.kernel())


def _asked(args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the arguments for the kernel: the number of the call, and the tools if it has any."""
    given = {**dict(zip(("stop", "run_manager"), args, strict=False)), **kwargs}
    asked: dict[str, Any] = {KEY: number, "run_manager": given.get("run_manager")}
    with suppress(Exception):  # a suite's own idea of a tool is not the kernel's business
        if tools := kwargs.get("tools"):
            asked["tools"] = [convert_to_openai_tool(tool) for tool in tools]
    return asked
