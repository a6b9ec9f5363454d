"""An agent of Microsoft Agent Framework, as anybody writes it for OpenAI.

Run it on the kernel, unmodified: `aios run examples/autogen/agent_framework_agent.py`
"""

import asyncio

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient


def calculator(expression: str) -> str:
    """Do math."""
    left, operator, right = expression.split()
    a, b = int(left), int(right)
    return str({"+": a + b, "-": a - b, "*": a * b}[operator])


async def main() -> None:
    agent = Agent(OpenAIChatClient(model="gpt-4o-mini"), name="assistant", tools=[calculator])
    print("answer:", (await agent.run("what is 123 plus 45?")).text)


asyncio.run(main())
