"""The adapter of LlamaIndex on a real model, and the examples as a new user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.aios import AIOSLLM

from aios_core import Kernel, KernelConfig

EXAMPLES = Path(__file__).parents[3] / "examples" / "llamaindex"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(KernelConfig(cores=({"kind": "tiny"},))) as kernel:  # type: ignore[arg-type]
        yield kernel
        kernel.check()


def weather(city: str) -> str:
    """Weather for a place."""
    return {"Oslo": "4 degrees, snow"}[city]


async def test_an_agent_calls_a_tool_and_relays_its_result(kernel: Kernel) -> None:
    agent = FunctionAgent(llm=AIOSLLM(kernel=kernel), tools=[weather], timeout=60)

    assert "4 degrees, snow" in str(await agent.run("what is the weather in Oslo?"))


async def test_a_stream_says_what_a_whole_answer_says(kernel: Kernel) -> None:
    llm, hello = AIOSLLM(kernel=kernel), [ChatMessage(role="user", content="hello")]

    whole = (await llm.achat(hello)).message.content
    deltas = [step.delta or "" async for step in await llm.astream_chat(hello)]

    assert "".join(deltas) == whole
    assert len(deltas) > 2


@pytest.mark.timeout(300)  # a new process imports LlamaIndex and torch, which is slow
@pytest.mark.parametrize(
    ("command", "script"), [("python", "hello.py"), ("aios run", "openai_agent.py")]
)
def test_an_example_runs_as_it_is(command: str, script: str) -> None:
    program = [sys.executable]
    if command == "aios run":
        program += ["-m", "aios_core.cli", "run"]
    environment = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}

    done = subprocess.run(  # noqa: S603 - our own example
        [*program, str(EXAMPLES / script)],
        env=environment | {"AIOS_QUIET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "4 degrees, snow" in done.stdout or "40" in done.stdout
