"""pytest plug-in: LlamaIndex's mock LLMs answer through the kernel.

    pytest -p compat_bench.reroute.llamaindex tests

The `chat` and `achat` of `llama_index.core.llms.mock`'s classes, and of those that a
suite derives from them, become calls of `AIOSLLM`, on a kernel whose core hands the
request to the mock. Their streams stay their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, Final

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms import LLM
from llama_index.llms.aios import AIOSLLM

from aios_core import Message
from compat_bench.reroute.switchboard import KEY, Switchboard, finished
from llama_index_aios.translation import to_messages

_MOCKS: Final = "llama_index.core.llms.mock"


def _message_of(response: ChatResponse) -> Message:
    (said,) = to_messages([response.message])
    return said


switchboard = Switchboard(_message_of)


def pytest_collection_finish(session: pytest.Session) -> None:
    """The suite's modules are imported: reroute the mocks that they define."""
    del session
    for mock in set(_subclasses(LLM)):
        if mock.__module__ == _MOCKS or mock.__module__.partition(".")[0] == "tests":
            _reroute(mock)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much went through the kernel."""
    terminalreporter.write_line(f"rerouted: {switchboard.num_calls} calls of fake models")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()


def _subclasses(kind: type) -> Iterator[Any]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _reroute(mock: Any) -> None:
    if "chat" in vars(mock):
        chat = mock.chat

        @wraps(chat)
        def through_kernel(
            self: Any, messages: Sequence[ChatMessage], **kwargs: Any
        ) -> ChatResponse:
            number = switchboard.expect(lambda: chat(self, messages, **kwargs))
            ours = AIOSLLM(kernel=switchboard.kernel())
            try:
                response = ours.answer(messages, **{KEY: number}, **_tools(kwargs))
            finally:
                spoken = switchboard.said(number)
            return _restored(response, spoken)

        mock.chat = through_kernel
    if "achat" in vars(mock):
        achat = mock.achat

        @wraps(achat)
        async def athrough_kernel(
            self: Any, messages: Sequence[ChatMessage], **kwargs: Any
        ) -> ChatResponse:
            number = switchboard.expect(lambda: finished(achat(self, messages, **kwargs)))
            ours = AIOSLLM(kernel=switchboard.kernel())
            try:
                response = await ours.aanswer(messages, **{KEY: number}, **_tools(kwargs))
            finally:
                spoken = switchboard.said(number)
            return _restored(response, spoken)

        mock.achat = athrough_kernel


def _tools(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The tools of a call, where they are in a form that the kernel knows."""
    with suppress(Exception):  # a suite's own idea of a tool is not the kernel's business
        return {"tools": [tool for tool in kwargs.get("tools") or () if "function" in tool]}
    return {}


def _restored(response: ChatResponse, spoken: ChatResponse | None) -> ChatResponse:
    """With what LlamaIndex knows of an answer and no kernel carries."""
    if spoken is None:
        return response
    response.raw, response.logprobs = spoken.raw, spoken.logprobs
    response.additional_kwargs = spoken.additional_kwargs
    response.message.additional_kwargs = spoken.message.additional_kwargs
    return response
