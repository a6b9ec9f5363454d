"""pytest plug-in: AutoGen's model clients answer through the kernel.

    pytest -p compat_bench.reroute.autogen tests

Every `ChatCompletionClient` but our own is rerouted: `ReplayChatCompletionClient`, with which
AutoGen tests its agents and teams, those that a suite defines, and `OpenAIChatCompletionClient`,
which suites use with a mocked connection. `create` and `create_stream` become calls
of `AIOSChatCompletionClient`; see `switchboard`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from autogen_core.models import ChatCompletionClient, CreateResult

from aios_core import Delta, Message, ToolCall
from autogen_aios import AIOSChatCompletionClient
from compat_bench.reroute.switchboard import (
    KEY,
    Switchboard,
    answering,
    is_answering,
    own_asteps,
)
from compat_bench.reroute.wrapping import on_each_subclass, replace, subclasses

_ASKED: Final = ("tools", "tool_choice", "json_output")  # of a call, in addition to its messages

Step = str | CreateResult


def _message_of(result: CreateResult) -> Message:
    """Convert an answer to the message that `AIOSChatCompletionClient` turns back into it."""
    if isinstance(result.content, str):
        return Message("assistant", result.content, reasoning=result.thought or "")
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in result.content)
    return Message("assistant", result.thought or "", tool_calls=calls)


def _delta_of(step: Step) -> Delta:
    return Delta(step) if isinstance(step, str) else Delta()


def _join(steps: list[Step]) -> Message:
    whole = steps[-1]
    if isinstance(whole, str):
        raise TypeError("a stream without its result")
    return _message_of(whole)


switchboard: Final = Switchboard(_message_of, _delta_of, _join)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Reroute the clients that are there, and each that will be."""
    with suppress(ImportError):
        __import__("autogen_ext.models.replay")
    with suppress(ImportError):  # an environment without OpenAI's package
        __import__("autogen_ext.models.openai")
    on_each_subclass(ChatCompletionClient, "__init_subclass__", _reroute)
    for client in subclasses(ChatCompletionClient):
        _reroute(client)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many calls went through the kernel."""
    terminalreporter.write_line(f"rerouted: {switchboard.report()}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()


def _reroute(client: Any) -> None:
    if client.__module__.partition(".")[0] != "autogen_aios":
        defaults = (ChatCompletionClient.create, ChatCompletionClient.create_stream)
        replace(client, "create", _create, defaults)
        replace(client, "create_stream", _create_stream, defaults)


def _create(original: Callable[..., Any]) -> Callable[..., Any]:
    async def create(self: Any, messages: Any, **options: Any) -> CreateResult:
        if is_answering(self):
            result: CreateResult = await original(self, messages, **options)
            return result

        async def theirs() -> CreateResult:
            with answering(self):
                result: CreateResult = await original(self, messages, **options)
                return result

        return await switchboard.aanswer(
            lambda n: _ours().create(messages, **_asked(options, n)), theirs
        )

    return create


def _create_stream(original: Callable[..., Any]) -> Callable[..., Any]:
    async def create_stream(self: Any, messages: Any, **options: Any) -> AsyncIterator[Step]:
        if is_answering(self):
            async for step in original(self, messages, **options):
                yield step
            return
        async for step in switchboard.asteps(
            lambda n: _ours().create_stream(messages, **_asked(options, n)),
            lambda: own_asteps(self, original(self, messages, **options)),
        ):
            yield step

    return create_stream


def _ours() -> AIOSChatCompletionClient:
    return AIOSChatCompletionClient(kernel=switchboard.kernel(), agent="replay")


def _asked(options: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the arguments for the kernel: those of the fake, and the number of the call."""
    asked = {key: options[key] for key in _ASKED if key in options}
    return {**asked, "extra_create_args": {KEY: number, **options.get("extra_create_args", {})}}
