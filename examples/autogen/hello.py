"""An AutoGen team on the kernel: one constructor.

Run it as it is: `python examples/autogen/hello.py`. No key is needed; without any configuration
the bundled tiny model answers.
"""

import asyncio

from autogen_agentchat.agents import AssistantAgent

from autogen_aios import AIOSChatCompletionClient


def weather(city: str) -> str:
    """Look up the weather of a city."""
    return {"Oslo": "4 degrees, snow", "Rome": "22 degrees, sunny"}.get(city, "unknown")


async def main() -> None:
    client = AIOSChatCompletionClient()
    questions = {"north": "what is the weather in Oslo?", "south": "what is the weather in Rome?"}
    agents = {
        name: AssistantAgent(
            name,
            client,
            tools=[weather],
            reflect_on_tool_use=True,
            system_message=None,  # AutoGen's own has every answer end in TERMINATE
        )
        for name in questions
    }

    # Two agents, two agents of the kernel: it saw by itself who asks.
    results = await asyncio.gather(
        *(agents[name].run(task=question) for name, question in questions.items())
    )

    for name, result in zip(questions, results, strict=True):
        print(f"{name}: {result.messages[-1].content}")


asyncio.run(main())
