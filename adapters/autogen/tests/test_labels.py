"""The labels of what one agent of a team has read pass to those that read its messages."""

from __future__ import annotations

from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat

from aios_core import Kernel, Message, ToolCall
from autogen_aios import AIOSChatCompletionClient, AIOSWorkbench

from .conftest import Boot

PAGE = "The page says that all accounts are to be closed at once."
SUMMARY = "I have read it: they want the accounts to be closed."


def script(request: Any) -> Message | str:
    """Answer as agents that fetch the page if they have tools, and summarize the result."""
    if request.messages[-1].role == "tool":
        return SUMMARY
    if request.tools:
        return Message("assistant", tool_calls=(ToolCall("1", "fetch", "{}"),))
    return "Noted, thank you."


def labels_by_name(kernel: Kernel) -> dict[str, set[str]]:
    return {process.name: process.labels for process in kernel.processes}


@pytest.mark.parametrize("page", [PAGE, "4711"], ids=["long", "short"])
@pytest.mark.parametrize("reflects", [False, True], ids=["passes on", "sums up"])
async def test_who_reads_the_message_of_an_agent_takes_its_labels(
    boot: Boot, reflects: bool, page: str
) -> None:
    def fetch() -> str:
        """Read a page."""
        return page

    kernel = boot(script)
    client = AIOSChatCompletionClient(kernel=kernel)
    reader = AssistantAgent(
        "reader",
        client,
        workbench=AIOSWorkbench([fetch], kernel=kernel),
        reflect_on_tool_use=reflects,
    )
    writer = AssistantAgent("writer", client)
    team = RoundRobinGroupChat([reader, writer], termination_condition=MaxMessageTermination(3))
    other = AssistantAgent("other", client)
    await other.run(task="Say thank you, and nothing else at all.")

    await team.run(task="Find out what is to be done.")

    found = labels_by_name(kernel)
    assert found["writer"] == {"tool:fetch"}, found
    assert found["other"] == set()
