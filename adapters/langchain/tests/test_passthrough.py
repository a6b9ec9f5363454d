"""Mode "passthrough": `ChatOpenAI` keeps its provider and key; the kernel schedules its calls."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI

import aios_core
from aios_adapters import write_completion
from aios_core import (
    Budget,
    BudgetExceeded,
    Completion,
    EventKind,
    FinishReason,
    Kernel,
    Message,
    Overloaded,
    SyscallCancelled,
    Usage,
)
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Hang, Raw, Refuse, StubServer
from langchain_aios import passthrough

from .conftest import Serve

WHOLE = Raw(
    json.dumps(
        write_completion(
            Completion(Message("assistant", "native"), FinishReason.STOP, Usage(7, 3), "stub")
        )
    ).encode(),
    "application/json",
)


@pytest.fixture(autouse=True)
def launched() -> Iterator[None]:
    aios_core.install("langchain", mode="passthrough")
    yield
    aios_core.uninstall()


def chat(server: StubServer, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="stub", base_url=server.base_url, api_key="secret", max_retries=0, **settings
    )


@pytest.mark.usefixtures("as_default")
async def test_all_four_ways_to_ask_the_provider_are_accounted(
    serve: Serve, watch: EventWatcher
) -> None:
    llm = chat(serve(WHOLE, WHOLE, Answer("a b"), Answer("c d")), stream_usage=True)

    assert llm.invoke("hi").text == "native"
    assert (await llm.ainvoke("hi")).text == "native"
    assert "".join(chunk.text for chunk in llm.stream("hi")) == "a b"
    assert "".join([chunk.text async for chunk in llm.astream("hi")]) == "c d"

    assert watch.counts[EventKind.DONE] == 4


class ChatDeepSeek(BaseChatOpenAI):
    """Looks like another provider's class that is made of OpenAI's."""


@pytest.mark.usefixtures("as_default")
async def test_other_providers_classes_that_are_made_of_openais_are_accounted_once(
    serve: Serve, watch: EventWatcher
) -> None:
    server = serve(WHOLE, WHOLE, Answer("a b"), Answer("c d"))
    llm = ChatDeepSeek(model="stub", base_url=server.base_url, api_key="secret", max_retries=0)

    assert llm.invoke("hi").text == "native"
    assert (await llm.ainvoke("hi")).text == "native"
    assert "".join(chunk.text for chunk in llm.stream("hi")) == "a b"
    assert "".join([chunk.text async for chunk in llm.astream("hi")]) == "c d"
    assert watch.counts[EventKind.DONE] == 4


@pytest.mark.usefixtures("as_default")
async def test_what_a_budget_has_left_is_the_providers_limit(serve: Serve) -> None:
    server = serve(WHOLE, WHOLE, Answer("a b"), Answer("c d"), WHOLE, WHOLE, WHOLE)
    llm, poor = (
        chat(server),
        {"metadata": {"aios_agent": "poor", "aios_budget": Budget(tokens=300)}},
    )

    llm.invoke("hi", poor)
    await llm.ainvoke("hi", poor)
    list(llm.stream("hi", poor))
    _ = [chunk async for chunk in llm.astream("hi", poor)]
    llm.invoke("hi", poor, max_tokens=7)
    llm.invoke("hi")
    llm.bind(max_completion_tokens=8).invoke("hi", poor)
    with pytest.raises(BudgetExceeded):
        llm.invoke("hi", poor, max_completion_tokens=9_000)

    limits = [exchange.body.get("max_completion_tokens") for exchange in server.exchanges]
    assert all(100 < limit < 300 for limit in limits[:4])
    assert limits[4:] == [7, None, 8]


def test_a_run_is_one_agent_and_its_tokens_are_its_own(
    serve: Serve, as_default: Kernel, watch: EventWatcher
) -> None:
    llm = chat(serve(WHOLE))
    spent: list[Usage] = []

    def work(text: str) -> str:
        llm.invoke(text)
        answer = llm.invoke(text).text
        spent.extend(process.accounting.usage for process in as_default.processes)
        return answer

    RunnableLambda(work, name="worker").invoke("hi")

    assert spent == [Usage(14, 6)]
    assert len(set(watch.callers())) == 1


async def test_the_end_of_its_agent_hangs_up_on_the_provider(
    serve: Serve, as_default: Kernel
) -> None:
    server = serve(Hang())
    asked = asyncio.create_task(chat(server).ainvoke("hi"))
    await server.until(lambda: server.num_active)

    (process,) = as_default.processes
    await as_default.aexit(process.pid)

    with pytest.raises(SyscallCancelled):
        await asked
    await server.until(lambda: server.exchanges[0].was_left)


TOO_MUCH = Refuse(400, "max_tokens is too large: this model supports at most 64 completion tokens")


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_budgets_limit_that_the_provider_refuses_is_left_out_at_once(
    serve: Serve, how: str
) -> None:
    server = serve(TOO_MUCH, Answer("a b") if "stream" in how else WHOLE)
    poor: Any = {"metadata": {"aios_agent": "poor", "aios_budget": Budget(tokens=300)}}

    llm = chat(server)
    if how == "astream":
        assert [chunk async for chunk in llm.astream("hi", poor)]
    elif how == "ainvoke":
        assert (await llm.ainvoke("hi", poor)).text == "native"
    else:
        assert list(getattr(llm, how)("hi", poor))

    limits = ["max_completion_tokens" in exchange.body for exchange in server.exchanges]
    assert limits == [True, False]


@pytest.mark.usefixtures("as_default")
def test_a_providers_own_error_stays_its_own(serve: Serve, watch: EventWatcher) -> None:
    with pytest.raises(openai.BadRequestError, match="bad prompt"):
        chat(serve(Refuse(400, "bad prompt"))).invoke("hi")

    watch.wait(EventKind.FAILED)


async def test_an_error_of_the_kernel_is_openais_kind_as_well(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Kernel:
        raise Overloaded("queue", 5, 2.0)

    async def arefuse(*_: Any) -> Kernel:
        return refuse()

    monkeypatch.setattr(passthrough, "register_provider_model", refuse)
    monkeypatch.setattr(passthrough, "aregister_provider_model", arefuse)
    llm = chat(serve(WHOLE))

    with pytest.raises(openai.RateLimitError, match="queue is full") as caught:
        llm.invoke("hi")
    with pytest.raises(openai.RateLimitError, match="queue is full"):
        await llm.ainvoke("hi")
    assert isinstance(caught.value, Overloaded)
    assert caught.value.status_code == 429


def test_a_stream_that_outlives_its_loop_says_nothing_and_frees_its_slot(
    serve: Serve, as_default: Kernel, watch: EventWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> object:
        stream = chat(serve(Answer("a b c", then="hang", after=1))).astream("hi")
        await anext(stream)
        return stream

    kept = asyncio.run(leave())
    del kept
    gc.collect()

    watch.wait(EventKind.CANCELLED)
    assert as_default.pool.route("stub@provider")[0].load().num_running == 0
    assert caplog.messages == []


def test_uninstalling_gives_everything_back() -> None:
    assert "_generate" in vars(AzureChatOpenAI)
    aios_core.uninstall()

    assert ChatOpenAI._generate is BaseChatOpenAI._generate
    assert BaseChatOpenAI._generate.__module__ == "langchain_openai.chat_models.base"
    assert "_generate" not in vars(AzureChatOpenAI)
