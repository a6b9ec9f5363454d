"""The drop-in class: the kernel schedules every call of a LlamaIndex agent.

Run it with `python examples/llamaindex/hello.py`.
"""

import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.aios import AIOSLLM


def weather(city: str) -> str:
    """Weather for a place."""
    return {"Oslo": "4 degrees, snow", "Lima": "22 degrees, sunny"}[city]


async def main() -> None:
    # No kernel is made here: the default kernel starts at the first call and is closed at exit.
    # Without any configuration it serves the bundled tiny model.
    agent = FunctionAgent(llm=AIOSLLM(), tools=[weather])
    for city in ("Oslo", "Lima"):
        print(await agent.run(f"what is the weather in {city}?"))


asyncio.run(main())
