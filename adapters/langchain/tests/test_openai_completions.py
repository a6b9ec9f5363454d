"""`langchain_openai.OpenAI`, the old completions, with the kernel and without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAI
from langchain_openai.llms.base import BaseOpenAI

from aios_core import Completion, EventKind, FinishReason, Kernel, Message, Usage
from aios_core.launch import install, uninstall
from aios_core.testing.event_watcher import EventWatcher
from langchain_aios.openai_completions import _about


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed, in an environment that knows no key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    install("langchain")
    yield
    uninstall()


@pytest.mark.usefixtures("as_default")
async def test_all_four_ways_to_call_are_the_kernels_and_need_no_key(watch: EventWatcher) -> None:
    llm = OpenAI(model="scripted")

    assert llm.invoke("a") == "You said: a"
    assert await llm.ainvoke("b") == "You said: b"
    assert "".join(llm.stream("c")) == "You said: c"
    assert "".join([text async for text in llm.astream("d")]) == "You said: d"
    assert watch.counts[EventKind.DONE] == 4


def test_settings_reach_the_core(as_default: Kernel) -> None:
    llm = OpenAI(model="scripted", temperature=0.5, max_tokens=-1, seed=3, presence_penalty=0.2)

    llm.invoke("hi", stop=["END"])

    (core,) = as_default.pool
    asked = core.requests[-1]  # type: ignore[attr-defined]
    assert (asked.sampling.temperature, asked.sampling.seed) == (0.5, 3)
    assert (asked.sampling.max_tokens, asked.sampling.stop) == (None, ("END",))
    assert (asked.sampling.presence_penalty, asked.extra) == (0.2, {})


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("how", ["generate", "agenerate"])
async def test_several_prompts_and_answers_come_back_in_order(
    how: str, watch: EventWatcher
) -> None:
    llm = OpenAI(model="scripted", n=2)

    if how == "generate":
        result = llm.generate(["a", "b"])
    else:
        result = await llm.agenerate(["a", "b"])

    texts = [[answer.text for answer in answers] for answers in result.generations]
    assert texts == [["You said: a"] * 2, ["You said: b"] * 2]
    assert watch.counts[EventKind.DONE] == 4
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["total_tokens"] > 0


@pytest.mark.usefixtures("as_default")
def test_a_run_is_one_agent(watch: EventWatcher) -> None:
    llm = OpenAI(model="scripted")

    RunnableLambda(lambda text: llm.batch([llm.invoke(text), "b", "c"])).invoke("a")

    assert len(watch.callers()) == 4
    assert len(set(watch.callers())) == 1


@pytest.mark.usefixtures("as_default")
async def test_a_streaming_model_tells_its_tokens() -> None:
    class Tokens(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = ""

        def on_llm_new_token(self, token: str, **_: Any) -> None:
            self.heard += token

    once, again = Tokens(), Tokens()
    llm = OpenAI(model="scripted", streaming=True)

    llm.invoke("a", {"callbacks": [once]})
    await llm.ainvoke("b", {"callbacks": [again]})

    assert (once.heard, again.heard) == ("You said: a", "You said: b")


@pytest.mark.usefixtures("as_default")
def test_the_best_of_several_is_the_first_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        assert OpenAI(model="scripted", best_of=3).invoke("hi") == "You said: hi"

    assert caplog.text.count("do not use best_of") == 1


def test_all_that_a_model_is_told_reaches_the_core(as_default: Kernel) -> None:
    llm = OpenAI(
        model="scripted",
        top_p=0.9,
        frequency_penalty=0.1,
        logit_bias={"5": 1.0},
        extra_body={"top_k": 4, "user": "ann", "max_tokens": 7},
        model_kwargs={"echo_id": "x"},
    )

    llm.invoke("hi", presence_penalty=0.3)

    (core,) = as_default.pool
    asked = core.requests[-1]  # type: ignore[attr-defined]
    assert asked.sampling.to_dict() == {
        "max_tokens": 7,  # as the client lays `extra_body` over the rest
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 4,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.3,
        "logit_bias": {"5": 1.0},
    }
    assert asked.extra == {"user": "ann", "echo_id": "x"}


def test_how_likely_the_tokens_were_is_told_as_the_old_completions_do() -> None:
    token = {"token": "yes", "logprob": -0.1, "top_logprobs": [{"token": "no", "logprob": -2.0}]}
    answer = Completion(
        Message("assistant", "yes"), FinishReason.STOP, Usage(), "m", logprobs={"content": [token]}
    )

    assert _about(answer)["logprobs"] == {
        "tokens": ["yes"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{"no": -2.0}],
    }


def test_uninstalling_gives_everything_back() -> None:
    ours = BaseOpenAI._generate
    uninstall()

    assert BaseOpenAI._generate is not ours
    assert BaseOpenAI._generate.__module__ == "langchain_openai.llms.base"
    assert "__init__" not in vars(OpenAI)
