"""pytest plug-in: AutoGen's replayed answers come through the kernel.

    pytest -p compat_bench.reroute.autogen tests

`ReplayChatCompletionClient`, with which AutoGen tests its agents and teams, answers
as the kernel's core: `create` and `create_stream` are calls of
`AIOSChatCompletionClient`. Usage and log probabilities are put back, since tests
compare them with what the fake counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest
from autogen_core.models import CreateResult
from autogen_ext.models.replay import ReplayChatCompletionClient

from aios_core import Message, ToolCall
from autogen_aios import AIOSChatCompletionClient
from compat_bench.reroute.switchboard import KEY, Switchboard, finished

_create: Final = ReplayChatCompletionClient.create


def _message_of(result: CreateResult) -> Message:
    if isinstance(result.content, str):
        return Message("assistant", result.content)
    calls = tuple(ToolCall(call.id, call.name, call.arguments) for call in result.content)
    return Message("assistant", result.thought or "", tool_calls=calls)


switchboard = Switchboard(_message_of)


async def _through_kernel(self: Any, messages: Any, **options: Any) -> CreateResult:
    """One call of the fake, as one of ours."""
    number = switchboard.expect(lambda: finished(_create(self, messages, **options)))
    ours = AIOSChatCompletionClient(kernel=switchboard.kernel(), agent="replay")
    extra = {**options.get("extra_create_args", {}), KEY: number}
    try:
        result = await ours.create(messages, **{**options, "extra_create_args": extra})
    finally:
        spoken = switchboard.said(number)
    if spoken is not None:
        result.usage, result.cached = spoken.usage, spoken.cached
        result.logprobs, result.thought = spoken.logprobs, spoken.thought
        result.finish_reason = spoken.finish_reason
    return result


async def _stream_through_kernel(
    self: Any, messages: Any, **options: Any
) -> AsyncGenerator[str | CreateResult, None]:
    """The same, word by word, as the fake streams."""
    result = await _through_kernel(self, messages, **options)
    if isinstance(result.content, str):
        words = result.content.split(" ")
        for position, word in enumerate(words):
            yield word if position == len(words) - 1 else f"{word} "
    yield result


def pytest_configure(config: pytest.Config) -> None:
    """Reroute the fake."""
    del config
    replaced: Any = ReplayChatCompletionClient
    replaced.create = _through_kernel
    replaced.create_stream = _stream_through_kernel


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how much went through the kernel."""
    terminalreporter.write_line(f"rerouted: {switchboard.num_calls} calls of fake models")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the kernel."""
    del config
    switchboard.close()
