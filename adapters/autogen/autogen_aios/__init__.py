"""AutoGen on the AIOS kernel.

    from autogen_aios import AIOSChatCompletionClient

    agent = AssistantAgent("writer", model_client=AIOSChatCompletionClient(), tools=[...])

Every call of the model is a syscall: scheduled among all agents, accounted,
checked, cancellable. `autogen_aios.classic` is for `autogen` (AG2 Classic),
`autogen_aios.agent_framework` for Microsoft Agent Framework. Importing this
starts nothing.
"""

from typing import TYPE_CHECKING

from aios_core.adapting import lazy_names

if TYPE_CHECKING:
    from autogen_aios.model_client import AIOSChatCompletionClient

__all__ = ["AIOSChatCompletionClient"]

__getattr__ = lazy_names(
    {"AIOSChatCompletionClient": "autogen_aios.model_client"}, install="'autogen-aios[autogen]'"
)
