"""`aios run`: what is written for `ChatOpenAI` runs on the kernel, without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import BaseModel

from aios_core import EventKind, Kernel, set_default_kernel
from aios_core.errors import NoSuchObject
from aios_core.launch import install, uninstall
from aios_core.testing.event_watcher import EventWatcher
from langchain_aios import AIOSEmbeddings

from .conftest import Boot

EXAMPLES = Path(__file__).parents[3] / "examples" / "langchain"


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed, in an environment that knows no key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    install("langchain")
    yield
    uninstall()


def test_a_chat_model_of_openai_is_answered_by_the_kernel(
    as_default: Kernel, watch: EventWatcher
) -> None:
    answer = ChatOpenAI(model="gpt-4o-mini", temperature=0.5, stop=["END"]).invoke("hi")

    assert answer.text == "You said: hi"
    assert answer.usage_metadata is not None
    (core,) = as_default.pool
    sampling = core.requests[-1].sampling  # type: ignore[attr-defined]
    assert (sampling.temperature, sampling.stop) == (0.5, ("END",))
    assert watch.counts[EventKind.DONE] == 1


@pytest.mark.usefixtures("as_default")
async def test_all_four_ways_to_call_are_served() -> None:
    llm = ChatOpenAI(model="scripted")

    assert llm.invoke("a").text == "You said: a"
    assert (await llm.ainvoke("b")).text == "You said: b"
    assert "".join(chunk.text for chunk in llm.stream("c")) == "You said: c"
    assert "".join([chunk.text async for chunk in llm.astream("d")]) == "You said: d"


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_a_strange_model_is_answered_by_the_default_one_which_is_said_once(
    capsys: pytest.CaptureFixture[str], how: str
) -> None:
    llm = ChatOpenAI(model="gpt-4o-mini")

    for _ in range(2):
        list(getattr(llm, how)("hi"))

    said = capsys.readouterr().err
    assert said.count("'gpt-4o-mini'") == 1
    assert "scripted" in said, "what there is"


def test_a_model_that_a_core_serves_is_that_model(boot: Boot, capsys: Any) -> None:
    former = set_default_kernel(boot(models=("one", "gpt-4o-mini")))

    answer = ChatOpenAI(model="gpt-4o-mini").invoke("hi")

    set_default_kernel(former)
    assert answer.response_metadata["model_name"] == "gpt-4o-mini"
    assert capsys.readouterr().err == ""


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()], ids=["class", "dict"])
async def test_structured_output_works_as_it_does_at_openai(method: Any, schema: Any) -> None:
    llm = ChatOpenAI(model="gpt-4o").with_structured_output(schema, method=method)
    kind = Joke if schema is Joke else dict

    assert isinstance(llm.invoke("a joke"), kind)
    assert isinstance(await llm.ainvoke("a joke"), kind)
    assert isinstance(list(llm.stream("a joke"))[-1], kind)


@pytest.mark.usefixtures("as_default")
def test_an_agent_of_init_chat_model_runs_its_tools(watch: EventWatcher) -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return number * 2

    agent = create_agent(init_chat_model("openai:gpt-4o-mini"), [double])

    answer = agent.invoke({"messages": [("user", "double 21")]})["messages"][-1]

    assert isinstance(answer, AIMessage)
    assert "42" in answer.text
    assert len(set(watch.callers())) == 1, "and all of it is one agent"


def test_words_for_the_wire_are_dropped_and_those_for_the_model_passed_on(
    as_default: Kernel,
) -> None:
    llm = ChatOpenAI(model="scripted", stream_usage=True, model_kwargs={"top_a": 0.1})

    llm.invoke("hi", service_tier="flex")

    (core,) = as_default.pool
    assert core.requests[-1].extra == {"top_a": 0.1, "service_tier": "flex"}  # type: ignore[attr-defined]


def test_an_error_of_the_kernel_is_not_mistaken_for_a_strange_model(boot: Boot) -> None:
    former = set_default_kernel(boot(lambda _: NoSuchObject("tool", "x"), models=("gpt-4o-mini",)))

    with pytest.raises(NoSuchObject, match="tool"):
        ChatOpenAI(model="gpt-4o-mini").invoke("hi")

    set_default_kernel(former)


def test_uninstalling_gives_everything_back() -> None:
    uninstall()
    before = (BaseChatOpenAI._generate, ChatOpenAI._stream, ChatOpenAI.__init__)

    install("langchain")
    install("langchain")
    assert BaseChatOpenAI._generate is not before[0]
    uninstall()
    uninstall()

    assert (BaseChatOpenAI._generate, ChatOpenAI._stream, ChatOpenAI.__init__) == before
    assert "_generate" not in vars(ChatOpenAI)


def test_what_is_imported_later_is_patched_when_it_is_imported() -> None:
    script = """
import sys
from aios_core import install
install("langchain")
assert "langchain_core" not in sys.modules, "nothing is imported for its own sake"
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
assert ChatOpenAI._generate.__module__ == "langchain_aios.substitute"
ChatOpenAI(model="gpt-4o-mini")
"""
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [["-m", "aios_core.cli", "run", "chat_openai.py"], ["hello.py"]])
def test_the_examples_run_on_the_tiny_model(how: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(  # noqa: S603
        [sys.executable, *how],
        cwd=EXAMPLES,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    expected = ["168", "12:30", "15"] if "run" in how else ["4 degrees, snow", "22 degrees, sunny"]
    for words in expected:
        assert words in done.stdout


@pytest.mark.usefixtures("as_default")
async def test_embeddings_of_openai_are_the_kernels_and_need_no_key(watch: EventWatcher) -> None:
    embeddings = OpenAIEmbeddings(model="text-embedding-3-small")

    vectors = [
        embeddings.embed_query("a dog"),
        embeddings.embed_documents(["a dog"])[0],
        await embeddings.aembed_query("a dog"),
        (await embeddings.aembed_documents(["a dog"]))[0],
    ]

    assert vectors == [AIOSEmbeddings().embed_query("a dog")] * 4
    requests = [event.facts.get("request") for event in watch.events]
    assert requests.count("llm.embed") == 5


@pytest.mark.usefixtures("as_default")
async def test_what_an_embedding_model_is_told_in_vain_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    embeddings = OpenAIEmbeddings(model="text-embedding-3-small", dimensions=256)

    embeddings.embed_query("a dog")
    await embeddings.aembed_query("a dog")

    assert caplog.text.count("do not use dimensions") == 1
