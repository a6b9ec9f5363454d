"""An agent as anybody writes it for OpenAI.

Run it on the kernel, unmodified: `aios run examples/llamaindex/openai_agent.py`
"""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai import OpenAI


def lookup(key: str) -> str:
    """Look up a value."""
    return {"apple-12": "40", "pear-7": "93"}[key]


async def main() -> None:
    llm = OpenAI(model="gpt-4o-mini")
    print("model:  ", (await llm.acomplete("hello")).text)
    agent = FunctionAgent(llm=llm, tools=[lookup])
    print("agent:  ", await agent.run("look up apple-12"))


asyncio.run(main())
