"""Make LlamaIndex's agents for `aios demo`; each question is a separate conversation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent

from aios_core import Agent, Kernel
from llama_index_aios.llm import AIOSLLM
from llama_index_aios.tools import akernel_tools


async def make_ask(
    kernel: Kernel, agent: Agent, tools: Sequence[str], max_tokens: int
) -> Callable[[str], Awaitable[str]]:
    """Return a function that asks a `FunctionAgent` with the kernel's model and tools."""
    offered: Any = await akernel_tools(*tools, agent=agent, kernel=kernel)
    llm = AIOSLLM(kernel=kernel, agent=agent, max_tokens=max_tokens)
    worker: Any = FunctionAgent(llm=llm, tools=offered)

    async def ask(question: str) -> str:
        return str(await worker.run(question))

    return ask
