"""Make AutoGen's agents for `aios demo`; each question is a separate conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from autogen_agentchat.agents import AssistantAgent

from aios_core import Agent, Kernel
from autogen_aios.model_client import AIOSChatCompletionClient
from autogen_aios.workbench import AIOSWorkbench


async def make_ask(
    kernel: Kernel, agent: Agent, tools: Sequence[str], max_tokens: int
) -> Callable[[str], Awaitable[str]]:
    """Return a function that asks an `AssistantAgent` with the kernel's model and workbench."""
    client = AIOSChatCompletionClient(kernel=kernel, agent=agent, max_tokens=max_tokens)
    workbench = AIOSWorkbench(names=tools, agent=agent, kernel=kernel)

    async def ask(question: str) -> str:
        assistant = AssistantAgent(
            "assistant",
            client,
            workbench=workbench,
            system_message=None,
            reflect_on_tool_use=True,
        )
        result = await assistant.run(task=question)
        return str(getattr(result.messages[-1], "content", ""))

    return ask
