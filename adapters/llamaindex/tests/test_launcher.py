"""Programs with LlamaIndex's OpenAI LLM run on the kernel, without a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

from aios_core import Kernel, NoSuchObject
from aios_core.adapting import install, uninstall


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed, in an environment that knows no key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    install("llamaindex")
    yield
    uninstall()


@pytest.mark.usefixtures("as_default")
async def test_all_eight_ways_to_call_are_served(capfd: pytest.CaptureFixture[str]) -> None:
    llm, hi = OpenAI(model="gpt-4o"), [ChatMessage(role="user", content="hi")]

    said = [
        llm.chat(hi).message.content,
        (await llm.achat(hi)).message.content,
        list(llm.stream_chat(hi))[-1].message.content,
        [step async for step in await llm.astream_chat(hi)][-1].message.content,
        llm.complete("hi").text,
        (await llm.acomplete("hi")).text,
        list(llm.stream_complete("hi"))[-1].text,
        [step async for step in await llm.astream_complete("hi")][-1].text,
    ]

    assert said == ["You said: hi"] * 8
    assert "no core serves 'gpt-4o'" in capfd.readouterr().err


@pytest.mark.usefixtures("as_default")
async def test_an_agent_with_tools_runs_unmodified() -> None:
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    agent = FunctionAgent(llm=OpenAI(model="gpt-4o"), tools=[add], timeout=20)

    assert str(await agent.run("add 3 and 4")) == "The tool said: 7"


def test_uninstalling_gives_the_class_back(as_default: Kernel) -> None:
    del as_default
    replaced = OpenAI._chat
    uninstall()

    assert OpenAI._chat is not replaced


def test_an_adapter_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(NoSuchObject, match="no adapter 'llamaindexx'"):
        install("llamaindexx")
