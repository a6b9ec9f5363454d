"""Keep an interpreter's messages in a thread of its agent's memory, one per conversation.

The thread follows the list: new messages at its end are appended; if an earlier one has
changed (a reset, an edit), the thread is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from aios_core import Agent

_PREFIX: Final = "open_interpreter/"


class History:
    """The stored messages of one conversation. Used by one interpreter at a time.

    Args:
        conversation: its name, under which another interpreter of the agent can continue it.
    """

    def __init__(self, conversation: str) -> None:
        self.conversation = conversation
        self._kept: list[str] = []  # the stored messages as JSON

    def read(self, agent: Agent) -> list[dict[str, Any]]:
        """Return the messages of the conversation, the oldest first."""
        entries = agent.memory.thread(_PREFIX + self.conversation).read()
        messages = [entry.content for entry in entries]
        self._kept = [_encoded(message) for message in messages]
        return messages

    def keep(self, agent: Agent, messages: Sequence[Any]) -> None:
        """Make the thread equal to the list; durable when this returns."""
        thread = agent.memory.thread(_PREFIX + self.conversation)
        encoded = [_encoded(message) for message in messages]
        num_kept = len(self._kept)
        if encoded[:num_kept] != self._kept:
            thread.replace([json.loads(one) for one in encoded])
        elif new := encoded[num_kept:]:
            thread.append(*map(json.loads, new))
        self._kept = encoded


def _encoded(message: Any) -> str:
    return json.dumps(message, sort_keys=True, ensure_ascii=False)
