"""A provider's class that no patch serves is named once, when it is used, with what to do."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    LLMResult,
)
from langchain_openai import ChatOpenAI

from aios_core import Kernel
from aios_core.launch import install, uninstall
from langchain_aios import ChatAIOS

LATER = "ChatAnthropic (langchain_anthropic) calls its provider directly"


class ChatOllama(BaseChatModel):
    """Looks like a provider's class that was imported before us."""

    @property
    def _llm_type(self) -> str:
        return "ollama"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("native"))])

    def _stream(self, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk("native"))


class OllamaLLM(BaseLLM):
    """Looks like a provider's completion model."""

    @property
    def _llm_type(self) -> str:
        return "ollama"

    def _generate(self, prompts: list[str], *_: Any, **__: Any) -> LLMResult:
        return LLMResult(generations=[[Generation(text="native")] for _ in prompts])


class Wrapper(ChatOllama):
    """Hands its calls on to a model inside."""

    inner: BaseChatModel

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self.inner._generate(*args, **kwargs)


@pytest.fixture(autouse=True, params=["substitute", "passthrough"])
def launched(request: pytest.FixtureRequest) -> Iterator[None]:
    install("langchain", mode=request.param)
    yield
    uninstall()


@pytest.mark.parametrize(
    "how", ["invoke", "stream", "batch", "ainvoke", "astream", "abatch", "stream_events"]
)
async def test_a_class_is_named_once_however_it_is_called(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm = ChatOllama()
    for _ in range(2):
        await _asked(llm, how)

    assert caplog.text.count("ChatOllama (") == 1
    assert "AIOS_BASE_URL" in caplog.text


@pytest.mark.parametrize("how", ["invoke", "stream", "batch", "ainvoke", "astream"])
async def test_a_completion_model_is_named_too(how: str, caplog: pytest.LogCaptureFixture) -> None:
    await _asked(OllamaLLM(), how)

    assert caplog.text.count("OllamaLLM (") == 1


def test_a_class_that_is_defined_later_is_named(caplog: pytest.LogCaptureFixture) -> None:
    later = type("ChatAnthropic", (ChatOllama,), {"__module__": "langchain_anthropic.chat_models"})

    later().invoke("hi")
    ChatOllama().invoke("hi")

    assert caplog.text.count(LATER) == 1
    assert caplog.text.count("ChatOllama (") == 1


@pytest.mark.usefixtures("as_default")
def test_what_is_served_or_only_pretends_is_not_named(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    GenericFakeChatModel(messages=iter([AIMessage("x")])).invoke("hi")
    ChatAIOS(kernel=kernel).invoke("hi")
    Wrapper(inner=ChatAIOS(kernel=kernel)).invoke("hi")

    assert "asks its provider" not in caplog.text


@pytest.mark.usefixtures("as_default")
def test_a_substituted_class_and_its_subclasses_are_not_named(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["launched"] != "substitute":
        pytest.skip("passthrough classes ask a provider, which is not here")

    class ChatDeepSeek(ChatOpenAI):
        pass

    ChatOpenAI(model="x").invoke("hi")
    ChatDeepSeek(model="x").invoke("hi")

    assert "asks its provider" not in caplog.text


def test_nothing_is_named_without_the_kernel(caplog: pytest.LogCaptureFixture) -> None:
    uninstall()

    ChatOllama().invoke("hi")

    assert caplog.text == ""


@pytest.mark.parametrize("logging", ["", "import logging; logging.basicConfig(filename='log')"])
def test_aios_run_shows_it_as_one_line(tmp_path: Path, logging: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
{logging}
from langchain_core.language_models import SimpleChatModel

class ChatGroq(SimpleChatModel):
    _llm_type = "groq"
    def _call(self, *args, **kwargs):
        return "native"

for _ in range(2):
    print(ChatGroq().invoke("hi").text)
""")
    environ = {**os.environ, "AIOS_STATE__DIRECTORY": str(tmp_path / "state")}
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "aios_core.cli", "run", str(script)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == ["native", "native"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("aios: ChatGroq (")


async def _asked(llm: Any, how: str) -> None:
    if how == "stream_events":
        async for _ in llm.astream_events("hi", version="v2"):
            pass
        return
    answer = getattr(llm, how)(["hi"] if "batch" in how else "hi")
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass
    elif inspect.isawaitable(answer):
        await answer
    else:
        list(answer)
