"""The parts that the substituted clients of `autogen_ext` share: agents, usage and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from autogen_core.models import LLMMessage, RequestUsage

from aios_adapters import AgentRef
from autogen_aios.model_client import AIOSChatCompletionClient

_ours: Final[WeakKeyDictionary[Any, AIOSChatCompletionClient]] = WeakKeyDictionary()


def _client_of(theirs: Any) -> AIOSChatCompletionClient:
    """Return our client for one of AutoGen's: it finds the callers and counts the tokens."""
    if (client := _ours.get(theirs)) is None:
        client = AIOSChatCompletionClient(
            model_info=theirs.model_info,
            include_name_in_message=getattr(theirs, "_include_name_in_message", False),
        )
        _ours[theirs] = client
    return client


def read_agent(theirs: Any, extra: Mapping[str, Any] | None) -> tuple[AgentRef, dict[str, Any]]:
    """Return the agent of a call, and the arguments for AutoGen's own client."""
    agent = _client_of(theirs).agent_ref(extra or {})
    return agent, {key: value for key, value in (extra or {}).items() if key != "aios"}


def account(theirs: Any, usage: RequestUsage) -> None:
    """Add the usage of a call to the counters of a client."""
    for name in ("_actual_usage", "_total_usage"):
        before = getattr(theirs, name)
        after = RequestUsage(
            before.prompt_tokens + usage.prompt_tokens,
            before.completion_tokens + usage.completion_tokens,
        )
        setattr(theirs, name, after)


def count_tokens(self: Any, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()) -> int:
    """Count the tokens of a prompt as the core that would answer does."""
    return _client_of(self).count_tokens(messages, tools=tools)


def remaining_tokens(
    self: Any, messages: Sequence[LLMMessage], *, tools: Sequence[Any] = ()
) -> int:
    """Return how many tokens of the context window a prompt leaves."""
    return _client_of(self).remaining_tokens(messages, tools=tools)
