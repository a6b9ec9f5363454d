"""Run AutoGen, AG2 Classic and Microsoft Agent Framework on the AIOS kernel.

    from autogen_aios import AIOSChatCompletionClient

    agent = AssistantAgent("writer", model_client=AIOSChatCompletionClient(), tools=[...])

Every LLM call is a syscall: scheduled among all agents, accounted, checked and cancellable.

    model_client     `AIOSChatCompletionClient`: AutoGen's model client
    memory           AutoGen's memory and model context, kept by the kernel
    workbench        tools, both ways
    code_executor    AutoGen's code executor in the kernel's sandbox
    classic          AG2 Classic (package `autogen`); `classic_counts` counts its tokens
    agent_framework  Microsoft Agent Framework, with the `agent_framework_*` modules
    callers          find the agent that a call belongs to
    agent_options    read the options under "aios" in a call
    translation      messages, tools and answers, both ways
    launcher         the patches of `aios run` and `install()`
    openai_client    mode "substitute" of OpenAI's clients
    passthrough      mode "passthrough": clients keep their own provider
    unserved         warn of a client that no patch serves
    missing_extra    name the extra to install for a missing framework
    demo_agents      AutoGen's agents in `aios demo`

What is common to all adapters is in `aios_adapters`. Importing this package starts nothing.
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
