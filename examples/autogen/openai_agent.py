"""An agent as anybody writes it for OpenAI.

Run it on the kernel, unmodified: `aios run examples/autogen/openai_agent.py`
"""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.ui import Console
from autogen_ext.models.openai import OpenAIChatCompletionClient


def calculator(expression: str) -> str:
    """Do math."""
    left, operator, right = expression.split()
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


async def main() -> None:
    model_client = OpenAIChatCompletionClient(model="gpt-4o-mini")
    agent = AssistantAgent(
        name="assistant",
        model_client=model_client,
        tools=[calculator],
        reflect_on_tool_use=True,
        model_client_stream=True,
    )
    await Console(agent.run_stream(task="what is 123 plus 45?"))
    await model_client.close()


asyncio.run(main())
