"""Programs with LlamaIndex's OpenAI LLM run on the kernel, without a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex, settings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.embeddings.aios import AIOSEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.aios import AIOSLLM
from llama_index.llms.openai import OpenAI, OpenAIResponses
from pydantic import BaseModel

from aios_core import InvalidRequest, Kernel, NoSuchObject, set_default_kernel
from aios_core.launch import install, uninstall
from aios_core.testing.event_watcher import EventWatcher

from .conftest import Boot


class Person(BaseModel):
    """A person."""

    name: str
    age: int


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


@pytest.mark.usefixtures("as_default")
async def test_the_responses_api_is_served_without_a_key() -> None:
    llm, hi = OpenAIResponses(model="gpt-4o"), [ChatMessage(role="user", content="hi")]

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


async def test_openai_embeddings_that_a_program_makes_itself_are_the_kernels(
    as_default: Kernel,
) -> None:
    theirs, ours = OpenAIEmbedding(model="text-embedding-3-large"), AIOSEmbedding()

    assert theirs.get_text_embedding("tea") == ours.get_text_embedding("tea")
    assert theirs.get_query_embedding("tea") == ours.get_query_embedding("tea")
    assert await theirs.aget_query_embedding("tea") == ours.get_query_embedding("tea")
    assert await theirs.aget_text_embedding("tea") == ours.get_text_embedding("tea")
    two = ["tea", "cup"]
    assert theirs.get_text_embedding_batch(two) == ours.get_text_embedding_batch(two)
    assert await theirs.aget_text_embedding_batch(two) == ours.get_text_embedding_batch(two)
    assert sum(process.accounting.num_embedded for process in as_default.processes) == 4 * 4
    uninstall()
    assert OpenAIEmbedding._get_query_embedding.__module__ == "llama_index.embeddings.openai.base"


@pytest.mark.usefixtures("as_default")
async def test_agents_and_objects_work_by_the_responses_api() -> None:
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    llm = OpenAIResponses(model="gpt-4o", instructions="be kind")
    about = PromptTemplate("about 'Ada', who is 36")

    assert str(await FunctionAgent(llm=llm, tools=[add], timeout=20).run("add 3 and 4")) == (
        "The tool said: 7"
    )
    assert llm.structured_predict(Person, about) == Person(name="Ada", age=36)
    assert await llm.astructured_predict(Person, about) == Person(name="Ada", age=36)


def test_settings_of_the_responses_api_reach_the_core(as_default: Kernel) -> None:
    llm = OpenAIResponses(max_output_tokens=9, temperature=0.5, instructions="be kind", user="u")

    llm.chat([ChatMessage(role="user", content="hi")], store=True)

    (core,) = as_default.pool
    (request,) = core.requests  # type: ignore[attr-defined]
    assert [message.role for message in request.messages] == ["system", "user"]
    assert (request.sampling.max_tokens, request.sampling.temperature) == (9, 0.5)
    assert request.extra == {"store": True, "user": "u"}


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize(
    "said",
    [
        {"built_in_tools": [{"type": "web_search_preview"}]},
        {"track_previous_responses": True},
        {"previous_response_id": "resp_1"},
    ],
)
def test_what_only_openais_service_does_is_refused_by_name(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"built_in_tools|previous responses"):
        OpenAIResponses(**said).complete("hi")


def test_a_query_engine_runs_without_any_setting(
    as_default: Kernel, watch: EventWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_embed_model", None)

    index = VectorStoreIndex.from_documents([Document(text="The harbour opens at nine.")])
    answer = index.as_query_engine().query("When does the harbour open?")

    assert "The harbour opens at nine." in str(answer)
    assert isinstance(Settings.llm, AIOSLLM)
    assert isinstance(Settings.embed_model, AIOSEmbedding)
    assert "llamaindex" in watch.names().values()  # the agent that embedded
    (core,) = as_default.pool
    assert len(core.requests) == 1  # type: ignore[attr-defined]


def test_prompts_are_cut_to_the_window_of_the_core_that_answers(
    boot: Boot,
) -> None:
    former = set_default_kernel(boot("ok", context_window=1_000))
    documents = [Document(text="The harbour opens at nine. " * 90) for _ in range(4)]
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    try:
        for mode in (ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.TREE_SUMMARIZE):
            for llm in (OpenAI(model="gpt-4o"), AIOSLLM()):
                engine = index.as_query_engine(llm=llm, similarity_top_k=4, response_mode=mode)
                assert str(engine.query("hello")) == "ok"
    finally:
        set_default_kernel(former)


def test_uninstalling_gives_the_class_back(as_default: Kernel) -> None:
    del as_default
    names = ("_chat", "metadata")
    replaced = [getattr(owner, name) for owner in (OpenAI, OpenAIResponses) for name in names]
    defaults = settings.resolve_llm, settings.resolve_embed_model
    uninstall()

    given_back = [getattr(owner, name) for owner in (OpenAI, OpenAIResponses) for name in names]
    assert not any(new is old for new, old in zip(given_back, replaced, strict=True))
    assert defaults != (settings.resolve_llm, settings.resolve_embed_model)


def test_an_adapter_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(NoSuchObject, match="no adapter 'llamaindexx'"):
        install("llamaindexx")
