"""Counts are measured or learned, and never an upper bound: buffers keep what they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, trim_messages
from langchain_core.messages.utils import count_tokens_approximately
from langchain_openai import ChatOpenAI, OpenAI

from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.cores.openai.core import OpenAICore
from aios_core.launch import install, uninstall
from aios_core.testing.stub_server import Answer, StubServer
from langchain_aios import ChatAIOS

TALK: list[BaseMessage] = [
    kind(f"Message {number} says ten plain words about one small harbour.")
    for number in range(100)
    for kind in (HumanMessage, AIMessage)
]


@pytest.fixture
def remote() -> Iterator[Kernel]:
    """Yield a kernel with one core, an endpoint that cannot count tokens."""
    with StubServer(Answer("well"), context_window=100_000) as server:
        core = OpenAICore(server.base_url, ["stub"], probe=False, context_window=100_000)
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        with Kernel(config, cores=[core]) as kernel:
            former = set_default_kernel(kernel)
            yield kernel
            set_default_kernel(former)


@pytest.fixture(params=["ours", "substituted"])
def llm(request: pytest.FixtureRequest, remote: Kernel) -> Iterator[BaseChatModel]:
    if request.param == "ours":
        yield ChatAIOS(kernel=remote)
        return
    install("langchain")
    yield ChatOpenAI(model="stub")
    uninstall()


def kept(token_counter: Any) -> int:
    return len(trim_messages(TALK, max_tokens=300, token_counter=token_counter, strategy="last"))


def test_a_buffer_keeps_about_as_many_messages_as_natively(llm: BaseChatModel) -> None:
    native = kept(count_tokens_approximately)

    assert native / 2 <= kept(llm) <= native * 2


def test_a_buffer_keeps_about_what_the_server_counts_once_it_has_answered(
    llm: BaseChatModel,
) -> None:
    llm.invoke(TALK[:20])  # the server counts words, ten a message, and what is around them

    assert 15 <= kept(llm) <= 30


def test_a_text_has_about_the_tokens_of_a_text(llm: BaseChatModel) -> None:
    text = "one two three four five six seven eight nine ten " * 10

    assert 50 <= llm.get_num_tokens(text) <= 200
    assert llm.get_num_tokens("") == 0


@pytest.mark.usefixtures("remote")
def test_a_completion_models_counts_are_the_kernels_too() -> None:
    install("langchain")
    try:
        assert 5 <= OpenAI(model="stub").get_num_tokens("one two three four five six seven") <= 20
    finally:
        uninstall()


@pytest.mark.usefixtures("remote")
def test_a_programs_own_tokenizer_stays() -> None:
    own: Callable[[str], list[int]] = lambda text: [0] * len(text)  # noqa: E731
    install("langchain")
    try:
        assert ChatOpenAI(model="stub", custom_get_token_ids=own).get_num_tokens("four") == 4
    finally:
        uninstall()


def test_no_messages_have_a_count(llm: BaseChatModel) -> None:
    assert 0 <= llm.get_num_tokens_from_messages([]) <= 20
