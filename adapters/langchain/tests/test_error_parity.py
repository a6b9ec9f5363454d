"""An error of a substituted model is of the kinds that the program would catch natively."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import openai
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware, ModelRetryMiddleware
from langchain_core.exceptions import ContextOverflowError, ModelError, ModelRateLimitError
from langchain_core.language_models import BaseChatModel
from langchain_openai import (
    OpenAIEmbeddings,
)

from aios_core import Kernel, KernelConfig, KernelError, set_default_kernel
from aios_core.cores import ScriptedCore
from aios_core.cores.embedding import OpenAIEmbedder
from aios_core.errors import RateLimited
from aios_core.launch import install, uninstall
from aios_core.testing.stub_server import Answer, Refuse, StubServer
from langchain_aios import ChatAIOS

from .sides import Sides

TOO_LONG: Final = "This model's maximum context length is 8 tokens."
FILTERED: Final = "The response was filtered due to the prompt triggering a content policy."


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke"])
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refuse(401, "bad key"), openai.AuthenticationError),
        (Refuse(403, "not yours"), openai.PermissionDeniedError),
        (Refuse(404, "no such model", code="model_not_found"), openai.NotFoundError),
        (Refuse(400, "wrong"), openai.BadRequestError),
        (Refuse(400, FILTERED, code="content_filter"), openai.BadRequestError),
        (Refuse(400, TOO_LONG, code="context_length_exceeded"), ContextOverflowError),
    ],
    ids=str,
)
def test_an_error_is_caught_as_natively(
    sides: Callable[..., Sides], refusal: Refuse, kind: type[Exception], how: str
) -> None:
    both = sides(refusal)

    def ask(_: Any) -> Any:
        if how == "ainvoke":
            return asyncio.run(both.llm().ainvoke("hi"))
        return list(getattr(both.llm(), how)("hi"))

    native, ours = both.run(ask)

    assert isinstance(native, kind)
    assert isinstance(ours, kind)
    assert isinstance(ours, KernelError)
    assert ours.status_code == native.status_code  # type: ignore[attr-defined]
    assert ours.is_retryable == native.is_retryable  # type: ignore[attr-defined]
    common = {
        one for one in type(native).__mro__ if one.__module__.startswith(("openai", "langchain"))
    }
    assert common - {type(native)} <= set(type(ours).__mro__)


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (401, 1)])
def test_retrying_middleware_acts_as_natively(
    sides: Callable[..., Sides], status: int, tries: int
) -> None:
    both = sides(Refuse(status, "no"))

    def ask(_: Any) -> Any:
        retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, on_failure="error")
        return create_agent(both.llm(), middleware=[retry]).invoke({"messages": [("user", "hi")]})

    native, ours = both.run(ask)

    assert isinstance(native, ModelError)
    assert isinstance(ours, ModelError)
    assert (len(both.native.exchanges), len(both.behind.exchanges)) == (tries, tries)


def test_fallbacks_get_their_turn(sides: Callable[..., Sides], kernel: Kernel) -> None:
    both = sides(Refuse(401, "bad key"))
    other = ChatAIOS(kernel=kernel)

    def with_fallbacks(_: Any) -> Any:
        llm = both.llm().with_fallbacks([other], exceptions_to_handle=(openai.AuthenticationError,))
        return llm.invoke("hi").text

    def with_middleware(_: Any) -> Any:
        agent = create_agent(both.llm(), middleware=[ModelFallbackMiddleware(other)])
        return agent.invoke({"messages": [("user", "hi")]})["messages"][-1].text

    for program in (with_fallbacks, with_middleware):
        native, ours = both.run(program)
        assert native == ours == "You said: hi"


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.embed_query("hi"),
        lambda model: model.embed_documents(["hi"]),
        lambda model: asyncio.run(model.aembed_query("hi")),
        lambda model: asyncio.run(model.aembed_documents(["hi"])),
    ],
)
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refuse(401, "bad key"), openai.AuthenticationError),
        (Refuse(403, "not yours"), openai.PermissionDeniedError),
        (Refuse(404, "no such model", code="model_not_found"), openai.NotFoundError),
        (Refuse(429, "slow down"), openai.RateLimitError),
        (Refuse(400, TOO_LONG, code="context_length_exceeded"), openai.BadRequestError),
        (Refuse(500, "oh"), openai.InternalServerError),
    ],
    ids=str,
)
def test_an_error_of_an_embedding_is_caught_as_natively(
    refusal: Refuse, kind: type[Exception], ask: Callable[[Any], Any]
) -> None:
    config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
    with StubServer(refusal) as server:
        kernel = Kernel(
            config, cores=[ScriptedCore("hi")], embedder=OpenAIEmbedder(server.base_url, "stub")
        )
        former = set_default_kernel(kernel.start())
        install("langchain")
        try:
            with pytest.raises(kind) as caught:
                ask(OpenAIEmbeddings(model="stub", max_retries=0))
        finally:
            uninstall()
            set_default_kernel(former)
            kernel.close(0)

    assert isinstance(caught.value, KernelError)


SLOW: Final = Refuse(429, "slow down", {"Retry-After": "0.05"})
LATER: Final = Refuse(429, "come back tomorrow", {"Retry-After": "3600"})


def asked(llm: Any, how: str) -> str:
    if how == "ainvoke":
        return str(asyncio.run(llm.ainvoke("hi")).text)
    return (
        "".join(part.text for part in llm.stream("hi"))
        if how == "stream"
        else llm.invoke("hi").text
    )


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("kind", [openai.RateLimitError, ModelError, RateLimited])
def test_what_tries_again_after_a_rate_limit_gets_its_answer(
    sides: Callable[..., Sides], kind: type[Exception], how: str
) -> None:
    both = sides(SLOW, Answer("ok"), max_attempts=1)
    kinds = (kind, openai.RateLimitError)

    def ask(_: Any) -> str:
        retrying = both.llm().with_retry(
            retry_if_exception_type=kinds, stop_after_attempt=2, wait_exponential_jitter=False
        )
        return asked(retrying, how)

    assert both.run(ask) == ("ok", "ok")
    assert (len(both.native.exchanges), len(both.behind.exchanges)) == (2, 2)


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream"])
def test_fallbacks_get_their_turn_after_a_rate_limit_that_is_too_long(
    sides: Callable[..., Sides], kernel: Kernel, how: str
) -> None:
    both = sides(LATER, max_retry_s=1)
    other = ChatAIOS(kernel=kernel)

    def ask(_: Any) -> str:
        kinds = (openai.RateLimitError,)
        return asked(both.llm().with_fallbacks([other], exceptions_to_handle=kinds), how)

    assert both.run(ask) == ("You said: hi", "You said: hi")
    assert len(both.behind.exchanges) == 1


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream"])
def test_our_own_models_fallbacks_get_their_turn_after_a_rate_limit(
    sides: Callable[..., Sides], kernel: Kernel, how: str
) -> None:
    both = sides(LATER, max_retry_s=1)
    limited: Any = ChatAIOS(kernel=both.kernel)
    kinds = (ModelRateLimitError,)

    llm = limited.with_fallbacks([ChatAIOS(kernel=kernel)], exceptions_to_handle=kinds)

    assert asked(llm, how) == "You said: hi"


def test_our_own_model_raises_langchains_kinds(sides: Callable[..., Sides]) -> None:
    both = sides(Refuse(401, "bad key"))
    llm: BaseChatModel = ChatAIOS(kernel=both.kernel)

    with pytest.raises(ModelError, match="bad key") as caught:
        llm.invoke("hi")

    assert type(caught.value).__mro__[1].__name__ == "AuthenticationFailed"
    assert not caught.value.is_retryable
