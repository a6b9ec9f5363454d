"""pytest plug-in: Agent Framework's fake chat clients answer through the kernel.

    pytest -p compat_bench.reroute.agent_framework tests

Every `BaseChatClient` that a suite defines is rerouted where its layers end: its
`_inner_get_response`, whole or streamed, becomes a call of `RawAIOSChatClient`; see
`switchboard`. Clients that only look like one (with a `get_response` and no base class) stay
as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from agent_framework import BaseChatClient, ChatResponse, ChatResponseUpdate, ResponseStream

from aios_core import Delta, Message
from autogen_aios.agent_framework import RawAIOSChatClient, to_messages
from compat_bench.reroute.switchboard import (
    KEY,
    Switchboard,
    answering,
    is_answering,
    own_asteps,
)
from compat_bench.reroute.wrapping import is_of_suite, on_each_subclass, replace, subclasses

_SOURCE: Final = "_stream_source"  # of a stream: where its updates come from


def _message_of(response: ChatResponse) -> Message:
    (said,) = to_messages(response.messages)
    return said


def _delta_of(update: ChatResponseUpdate) -> Delta:
    return Delta(update.text)


def _join(updates: list[ChatResponseUpdate]) -> Message:
    return _message_of(ChatResponse.from_updates(updates))


switchboard: Final = Switchboard(_message_of, _delta_of, _join)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Reroute each client that the suite will define."""
    root = Path.cwd()
    on_each_subclass(BaseChatClient, "__init_subclass__", lambda fake: _reroute(fake, root))
    for fake in subclasses(BaseChatClient):
        _reroute(fake, root)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many calls went through the kernel."""
    terminalreporter.write_line(f"rerouted: {switchboard.report()}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()


def _reroute(client: Any, root: Path) -> None:
    if is_of_suite(client, root):
        default: Any = BaseChatClient._inner_get_response  # noqa: SLF001 - it is to be replaced
        replace(client, "_inner_get_response", _inner_get_response, (default,))


def _inner_get_response(original: Callable[..., Any]) -> Callable[..., Any]:
    def inner_get_response(self: Any, **asked: Any) -> Any:
        if is_answering(self):
            return original(self, **asked)
        with answering(self):
            response = original(self, **asked)
        if not asked.get("stream"):
            return _answer(self, response, asked)
        source = getattr(response, _SOURCE, None)
        if isinstance(response, ResponseStream) and isinstance(source, AsyncIterable):
            setattr(response, _SOURCE, _updates(self, source, asked))
        return response

    return inner_get_response


async def _answer(fake: Any, response: Awaitable[ChatResponse], asked: Any) -> ChatResponse:
    async def theirs() -> ChatResponse:
        with answering(fake):
            return await response

    async def ours(number: int) -> ChatResponse:
        answer: Any = _ours()._inner_get_response(**_asked(asked, number), stream=False)  # noqa: SLF001
        response: ChatResponse = await answer
        return response

    return await switchboard.aanswer(ours, theirs)


def _updates(
    fake: Any, source: AsyncIterable[ChatResponseUpdate], asked: Any
) -> AsyncIterator[ChatResponseUpdate]:
    def ours(number: int) -> Any:
        return _ours()._inner_get_response(**_asked(asked, number), stream=True)  # noqa: SLF001

    return switchboard.asteps(ours, lambda: own_asteps(fake, source))


def _ours() -> RawAIOSChatClient:
    return RawAIOSChatClient(kernel=switchboard.kernel(), agent="fake")


def _asked(asked: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the arguments for the kernel: the messages, the tools, and the number of the call."""
    options = {KEY: number, "tools": (asked.get("options") or {}).get("tools")}
    return {"messages": asked["messages"], "options": options}
