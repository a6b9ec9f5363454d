"""Run AutoGen, AG2 Classic and Microsoft Agent Framework on the AIOS kernel.

    from autogen_aios import AIOSChatCompletionClient

    agent = AssistantAgent("writer", model_client=AIOSChatCompletionClient(), tools=[...])

Every LLM call is a syscall: scheduled among all agents, accounted, checked and
cancellable. `autogen_aios.classic` is for `autogen` (AG2 Classic),
`autogen_aios.agent_framework` for Microsoft Agent Framework. Importing this
package starts nothing.
"""

from typing import TYPE_CHECKING

from aios_adapters import export_lazily

if TYPE_CHECKING:
    from autogen_aios.code_executor import AIOSCodeExecutor
    from autogen_aios.memory import AIOSChatCompletionContext, AIOSMemory
    from autogen_aios.model_client import AIOSChatCompletionClient
    from autogen_aios.workbench import AIOSWorkbench, wrap_tool

__all__ = [
    "AIOSChatCompletionClient",
    "AIOSChatCompletionContext",
    "AIOSCodeExecutor",
    "AIOSMemory",
    "AIOSWorkbench",
    "wrap_tool",
]

if not TYPE_CHECKING:  # or type checkers would accept any name
    __getattr__ = export_lazily(
        {
            "AIOSChatCompletionClient": "autogen_aios.model_client",
            "AIOSChatCompletionContext": "autogen_aios.memory",
            "AIOSCodeExecutor": "autogen_aios.code_executor",
            "AIOSMemory": "autogen_aios.memory",
            "AIOSWorkbench": "autogen_aios.workbench",
            "wrap_tool": "autogen_aios.workbench",
        },
        install="'autogen-aios[autogen]'",
    )
