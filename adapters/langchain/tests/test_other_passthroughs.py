"""Mode "passthrough" beyond chat models: `OpenAI`'s completions and `OpenAIEmbeddings`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAI, OpenAIEmbeddings

import aios_core
from aios_core import Budget, EventKind, Kernel, SyscallCancelled, Usage
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Hang, Raw, Refuse, StubServer

from .conftest import Serve

CHOICE = {"index": 0, "text": "native", "finish_reason": "stop", "logprobs": None}
TOOK = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
SAID = {"id": "1", "object": "text_completion", "created": 1, "model": "stub", "choices": [CHOICE]}
WHOLE = Raw(json.dumps({**SAID, "usage": TOOK}).encode(), "application/json")
STREAMED = Raw(
    f"data: {json.dumps(SAID)}\n\ndata: [DONE]\n\n".encode(), content_type="text/event-stream"
)


@pytest.fixture(autouse=True)
def launched() -> Iterator[None]:
    aios_core.install("langchain", mode="passthrough")
    yield
    aios_core.uninstall()


def completing(server: StubServer, **settings: Any) -> OpenAI:
    return OpenAI(
        model="stub", base_url=server.base_url, api_key="secret", max_retries=0, **settings
    )


def embedding(server: StubServer) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model="stub",
        base_url=server.base_url,
        api_key="secret",
        max_retries=0,
        check_embedding_ctx_length=False,  # else it downloads a tokenizer
    )


@pytest.mark.usefixtures("as_default")
async def test_all_four_ways_to_complete_are_accounted(serve: Serve, watch: EventWatcher) -> None:
    llm = completing(serve(WHOLE, WHOLE, STREAMED, STREAMED))

    assert llm.invoke("hi") == "native"
    assert await llm.ainvoke("hi") == "native"
    assert "".join(llm.stream("hi")) == "native"
    assert "".join([text async for text in llm.astream("hi")]) == "native"

    assert watch.counts[EventKind.DONE] == 4


def budget(agent: str, tokens: int) -> dict[str, Any]:
    return {"metadata": {"aios_agent": agent, "aios_budget": Budget(tokens=tokens)}}


@pytest.mark.usefixtures("as_default")
async def test_what_a_budget_has_left_is_the_limit_of_a_completion(serve: Serve) -> None:
    server = serve(WHOLE, WHOLE, STREAMED, STREAMED, *[WHOLE] * 5)
    llm, poor = completing(server), budget("poor", 200)

    llm.invoke("hi", poor)
    await llm.ainvoke("hi", budget("ann", 200))
    list(llm.stream("hi", budget("bob", 200)))
    _ = [text async for text in llm.astream("hi", budget("cid", 200))]
    llm.generate(["hi", "ho"], callbacks=None, **poor)  # two prompts share it
    completing(server, max_tokens=-1).invoke("hi", budget("rich", 2_000))
    llm.invoke("hi", budget("richer", 2_000))
    llm.invoke("hi", poor, max_tokens=7)
    llm.invoke("hi")

    limits = [exchange.body["max_tokens"] for exchange in server.exchanges]
    assert all(90 < limit < 200 for limit in limits[:4])
    assert 20 < limits[4] < 95
    assert limits[5] > 900
    assert limits[6:] == [256, 7, 256], "the class sends no more than that of itself"


@pytest.mark.usefixtures("as_default")
async def test_a_streaming_model_is_accounted_once(serve: Serve, watch: EventWatcher) -> None:
    llm = completing(serve(STREAMED, STREAMED), streaming=True)

    assert llm.invoke("hi") == "native"
    assert await llm.ainvoke("hi") == "native"

    assert watch.counts[EventKind.DONE] == 2


def spending(kernel: Kernel, work: Callable[[str], object]) -> RunnableLambda[str, list[Usage]]:
    """Return a run that does the work and returns the usage of its agent."""

    def run(text: str) -> list[Usage]:
        work(text)
        return [process.accounting.usage for process in kernel.processes]

    return RunnableLambda(run, name="worker")


def test_tokens_of_completions_are_those_of_the_run(serve: Serve, as_default: Kernel) -> None:
    llm = completing(serve(WHOLE))

    assert spending(as_default, llm.invoke).invoke("hi") == [Usage(7, 3)]


def test_tokens_of_embeddings_are_those_of_the_run(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    server = serve(Answer(""))
    embeddings = embedding(server)

    (spent,) = spending(as_default, lambda text: embeddings.embed_documents([text] * 3)).invoke("x")

    assert spent.input_tokens > 0
    assert spent.output_tokens == 0
    assert watch.counts[EventKind.DONE] == 1


@pytest.mark.usefixtures("as_default")
async def test_all_four_ways_to_embed_are_accounted(serve: Serve, watch: EventWatcher) -> None:
    embeddings = embedding(serve(Answer("")))

    vectors = [
        embeddings.embed_query("four"),
        embeddings.embed_documents(["four"])[0],
        await embeddings.aembed_query("four"),
        (await embeddings.aembed_documents(["four"]))[0],
    ]

    assert [vector[0] for vector in vectors] == [4.0] * 4, "the provider's"
    assert watch.counts[EventKind.DONE] == 4


@pytest.mark.parametrize("make", [completing, embedding])
async def test_the_end_of_its_agent_hangs_up_on_the_provider(
    serve: Serve, as_default: Kernel, make: Callable[[StubServer], Any]
) -> None:
    server = serve(Hang())
    model = make(server)
    asking = model.ainvoke("hi") if make is completing else model.aembed_query("hi")
    asked = asyncio.create_task(asking)
    await server.until(lambda: server.num_active)

    (process,) = as_default.processes
    await as_default.aexit(process.pid)

    with pytest.raises(SyscallCancelled):
        await asked
    await server.until(lambda: server.exchanges[0].was_left)


@pytest.mark.usefixtures("as_default")
def test_a_providers_own_error_stays_its_own(serve: Serve, watch: EventWatcher) -> None:
    with pytest.raises(openai.BadRequestError, match="bad prompt"):
        embedding(serve(Refuse(400, "bad prompt"))).embed_query("hi")

    watch.wait(EventKind.FAILED)


def test_uninstalling_gives_everything_back() -> None:
    assert OpenAIEmbeddings.embed_documents.__module__ == "langchain_aios.passthrough_embeddings"
    aios_core.uninstall()

    assert OpenAIEmbeddings.embed_documents.__module__ == "langchain_openai.embeddings.base"
    assert OpenAI._generate.__module__ == "langchain_openai.llms.base"
