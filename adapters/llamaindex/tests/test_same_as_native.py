"""The kernel sends the calls of a program as OpenAI's own LLM class would send them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike

import aios_core
from aios_core import Kernel, KernelConfig, KernelError, set_default_kernel
from aios_core.config import AccessConfig, SchedulerConfig, StateConfig
from aios_core.cores import OpenAICore
from aios_core.cores.embedding import OpenAIEmbedder
from aios_core.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextOverflow,
    ModelNotFound,
    PermissionRefused,
    RateLimited,
)
from aios_core.testing.stub_server import Answer, Behavior, Raw, Refuse, StubServer

MODEL = "gpt-4o"
FETCHING = ("stream", "stream_options")  # how an answer is fetched, not what is asked for
CHAT = [
    ChatMessage(role="system", content="be kind"),
    ChatMessage(role="user", blocks=[TextBlock(text="see"), ImageBlock(url="http://x/y.png")]),
    ChatMessage(role="assistant", content="well", additional_kwargs={"name": "bot"}),
    ChatMessage(role="user", content="again"),
]


@pytest.fixture
def provider() -> Iterator[Callable[..., StubServer]]:
    running: list[StubServer] = []

    def start(*script: Behavior) -> StubServer:
        server = StubServer(list(script) or Answer("one two"), models=[MODEL])
        running.append(server.__enter__())
        return server

    yield start
    for server in running:
        server.close()


@pytest.fixture
def substituted() -> Iterator[Callable[[StubServer], None]]:
    """Let a kernel with a core at that endpoint answer in the provider's place."""
    kernels: list[Kernel] = []
    former: list[Kernel | None] = []

    def start(server: StubServer, embedder: OpenAIEmbedder | None = None) -> None:
        config = KernelConfig(
            scheduler=SchedulerConfig(max_attempts=1, max_retry_s=1),
            state=StateConfig(directory=":memory:"),
            access=AccessConfig(approver="allow"),
        )
        core = OpenAICore(server.base_url, [MODEL], api_key="k")
        kernels.append(Kernel(config, cores=[core], embedder=embedder).start())
        former.append(set_default_kernel(kernels[-1]))
        aios_core.install("llamaindex")

    yield start
    aios_core.uninstall()
    for kernel in kernels:
        set_default_kernel(former[0])
        kernel.check()
        kernel.close(0)


def sent(server: StubServer, at: int = -1) -> dict[str, Any]:
    body = dict(server.exchanges[at].body)
    if "max_tokens" in body:  # which of the two an endpoint knows is the core's business
        body["max_completion_tokens"] = body.pop("max_tokens")
    return {key: value for key, value in body.items() if key not in FETCHING}


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.mark.parametrize("kind", [OpenAI, OpenAILike])
@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({}, {}),
        ({"temperature": 0.3, "max_tokens": 9}, {"seed": 2, "stop": ["x"], "user": "u"}),
        (
            {"additional_kwargs": {"frequency_penalty": 0.5, "service_tier": "flex"}},
            {"top_p": 0.5, "extra_body": {"guided_choice": ["a"]}, "metadata": {"a": "b"}},
        ),
        ({"logprobs": True, "top_logprobs": 2}, {"parallel_tool_calls": False}),
    ],
)
async def test_the_request_is_the_providers(
    kind: Any,
    settings: dict[str, Any],
    call: dict[str, Any],
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    native, behind = provider(), provider()
    endpoint = {"api_base": native.base_url, "api_key": "k", "max_retries": 0}
    if kind is OpenAILike:
        endpoint |= {"is_chat_model": True, "is_function_calling_model": True}
    tool = FunctionTool.from_defaults(add)
    if "parallel_tool_calls" in call:
        call = {"tools": [tool.metadata.to_openai_tool()], **call}

    async def ask(used: StubServer) -> list[dict[str, Any]]:
        llm = kind(model=MODEL, **endpoint, **settings)
        llm.chat(CHAT, **call)
        bodies = [sent(used)]
        await llm.achat(CHAT, **call)
        bodies.append(sent(used))
        list(llm.stream_chat(CHAT, **call))
        bodies.append(sent(used))
        assert [step async for step in await llm.astream_chat(CHAT, **call)]
        return [*bodies, sent(used)]

    wanted = await ask(native)
    substituted(behind)

    assert await ask(behind) == wanted
    assert len(native.exchanges) == 4


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({"max_tokens": 9}, {}),
        ({"max_tokens": 9, "temperature": 0.3}, {"seed": 2, "stop": ["x"], "user": "u"}),
        ({"max_tokens": 9, "additional_kwargs": {"presence_penalty": 0.5}}, {"top_p": 0.5}),
        ({"max_tokens": 9, "logprobs": True, "top_logprobs": 2}, {}),
        ({"max_tokens": 9, "additional_kwargs": {"extra_body": {"guided_choice": ["a"]}}}, {}),
    ],
)
async def test_a_prompt_without_roles_says_all_that_its_provider_would_get(
    settings: dict[str, Any],
    call: dict[str, Any],
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
) -> None:
    native, behind = provider(), provider()
    endpoint = {"api_base": native.base_url, "api_key": "k", "max_retries": 0}

    async def ask(used: StubServer) -> tuple[list[str], list[dict[str, Any]]]:
        llm = OpenAILike(model=MODEL, is_chat_model=False, **endpoint, **settings)
        answers = [llm.complete("why?", **call), await llm.acomplete("why?", **call)]
        answers += [list(llm.stream_complete("why?", **call))[-1]]
        answers += [[step async for step in await llm.astream_complete("why?", **call)][-1]]
        texts = [answer.text.strip() for answer in answers]
        return texts, [sent(used, at) for at in range(len(used.exchanges))]

    texts, bodies = await ask(native)
    substituted(behind)

    assert await ask(behind) == (texts, [as_chat(body) for body in bodies])
    assert texts == ["one two"] * 4
    assert len(native.exchanges) == 4


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a prompt without roles as that of a chat, which a kernel's core sends."""
    told = {**body, "messages": [{"role": "user", "content": body["prompt"]}]}
    if "logprobs" in body:
        told |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return {key: value for key, value in told.items() if key != "prompt"}


def test_an_old_completion_model_needs_neither_a_tokenizer_nor_a_limit(
    provider: Callable[..., StubServer], substituted: Callable[[StubServer], None]
) -> None:
    behind = provider()
    substituted(behind)
    llm = OpenAI(model="gpt-3.5-turbo-instruct", api_key="k", max_retries=0)

    assert llm.complete("why?").text.strip() == "one two"
    assert llm.chat(CHAT[-1:], use_chat_completions=True).message.content == "one two"


def test_several_prompts_in_one_are_refused_and_what_is_left_out_is_named_once(
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    behind = provider()
    substituted(behind)
    llm = OpenAILike(model=MODEL, is_chat_model=False, api_key="k", max_retries=0)

    for _ in range(2):
        llm.complete("why?", echo=True, suffix="end")
    assert [caplog.text.count(f"'{name}' of a completion") for name in ("echo", "suffix")] == [1, 1]
    assert {"echo", "suffix"}.isdisjoint(behind.exchanges[-1].body)
    with pytest.raises(openai.BadRequestError, match="allowed: one text"):
        llm._complete(["a", "b"])  # type: ignore[arg-type]


REFUSALS: list[tuple[Behavior, type[Exception], type[KernelError]]] = [
    (Refuse(401, "bad key"), openai.AuthenticationError, AuthenticationFailed),
    (Refuse(403, "not for you"), openai.PermissionDeniedError, PermissionRefused),
    (Refuse(404, "no such model", code="model_not_found"), openai.NotFoundError, ModelNotFound),
    (Refuse(429, "slow", {"Retry-After": "7"}), openai.RateLimitError, RateLimited),
    (Refuse(400, "maximum context length is 9"), openai.BadRequestError, ContextOverflow),
    (Refuse(400, "no", code="content_filter"), openai.BadRequestError, ContentFiltered),
    (Refuse(500, "oh"), openai.InternalServerError, KernelError),
]


async def _stream(llm: Any) -> None:
    assert [step async for step in await llm.astream_chat(CHAT)]


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.achat(CHAT),
        lambda llm: asyncio.to_thread(llm.chat, CHAT),
        lambda llm: asyncio.to_thread(lambda: list(llm.stream_chat(CHAT))),
        _stream,
    ],
    ids=["achat", "chat", "stream_chat", "astream_chat"],
)
@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
@pytest.mark.parametrize("named", REFUSALS, ids=lambda named: named[2].__name__)
async def test_a_refusal_is_caught_by_its_native_name_and_the_kernels(
    named: tuple[Behavior, type[Exception], type[KernelError]],
    kind: type[OpenAI],
    ask: Callable[[Any], Any],
    substituted: Callable[[StubServer], None],
) -> None:
    refusal, theirs, ours = named
    with StubServer(refusal, models=[MODEL]) as behind:
        substituted(behind)
        llm = kind(model=MODEL, api_base=behind.base_url, api_key="k", max_retries=0)
        with pytest.raises(theirs) as caught:
            await ask(llm)

        assert isinstance(caught.value, ours)


@pytest.mark.parametrize("kind", [OpenAI, OpenAIResponses])
def test_a_call_is_tried_again_as_often_as_its_constructor_allows(
    kind: type[OpenAI],
    substituted: Callable[[StubServer], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with StubServer([Refuse(500, "oh"), Answer("well")], models=[MODEL]) as behind:
        substituted(behind)
        llm = kind(model=MODEL, api_base=behind.base_url, api_key="k", max_retries=2)

        assert llm.chat(CHAT).message.content == "well"


EMBEDDING: list[Callable[[OpenAIEmbedding], Any]] = [
    lambda model: model.aget_text_embedding("hi"),
    lambda model: model.aget_query_embedding("hi"),
    lambda model: model.aget_text_embedding_batch(["hi", "ho"]),
    lambda model: asyncio.to_thread(model.get_text_embedding, "hi"),
    lambda model: asyncio.to_thread(model.get_query_embedding, "hi"),
    lambda model: asyncio.to_thread(model.get_text_embedding_batch, ["hi", "ho"]),
]


@pytest.mark.parametrize("ask", EMBEDDING)
@pytest.mark.parametrize("named", REFUSALS, ids=lambda named: named[2].__name__)
async def test_a_refused_embedding_is_caught_by_its_native_name_and_the_kernels(
    named: tuple[Behavior, type[Exception], type[KernelError]],
    ask: Callable[[OpenAIEmbedding], Any],
    substituted: Callable[..., None],
) -> None:
    refusal, theirs, ours = named
    with StubServer(refusal, models=[MODEL]) as behind:
        substituted(behind, embedder=OpenAIEmbedder(behind.base_url, MODEL))
        with pytest.raises(theirs) as caught:
            await ask(OpenAIEmbedding(api_key="k", max_retries=0))

        assert isinstance(caught.value, ours)


# --- the Responses API: the same options under the names of a chat completion --------------------

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 0,
    "model": MODEL,
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "one two", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 3,
    },
}


def responses() -> Raw:
    return Raw(json.dumps(RESPONSE).encode(), "application/json")


def as_completion(body: dict[str, Any]) -> dict[str, Any]:
    """The options of a request to `/responses` as a chat completion has them."""
    names = {"max_output_tokens": "max_completion_tokens"}
    unlike = {"input", "instructions", "include", "truncation", "reasoning", "text", "tools"}
    unlike |= {"stream", *(key for key, value in body.items() if value is None)}
    told = {names.get(key, key): value for key, value in body.items() if key not in unlike}
    if not told.get("store"):
        told.pop("store", None)
    if "top_logprobs" in told:
        told["logprobs"] = True
    if effort := (body.get("reasoning") or {}).get("effort"):
        told["reasoning_effort"] = effort
    text = dict(body.get("text") or {})
    if form := text.pop("format", None):
        inside = {key: value for key, value in form.items() if key != "type"}
        told["response_format"] = {"type": form["type"], "json_schema": inside}
    if tools := body.get("tools"):
        told["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in tools
        ]
    return {**told, **text}


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({}, {}),
        ({"max_output_tokens": 9, "temperature": 0.3, "top_p": 0.5, "user": "u"}, {}),
        ({"call_metadata": {"a": "b"}, "store": True, "instructions": "be kind"}, {}),
        ({"additional_kwargs": {"service_tier": "flex", "top_logprobs": 2}}, {"user": "u"}),
        ({"additional_kwargs": {"max_output_tokens": 7}}, {"temperature": 0.9}),
        ({"model": "o3-mini", "reasoning_options": {"effort": "low"}}, {}),
        ({}, {"text": {"format": {"type": "json_schema", "name": "j", "schema": {}}}}),
        ({"strict": True}, {"tools": "add", "parallel_tool_calls": False}),
    ],
)
async def test_a_request_to_the_responses_api_says_all_that_its_provider_would_get(
    settings: dict[str, Any],
    call: dict[str, Any],
    provider: Callable[..., StubServer],
    substituted: Callable[..., None],
) -> None:
    settings = {"model": MODEL, **settings}
    with StubServer(responses(), models=[settings["model"]]) as native:
        behind = provider()
        endpoint = {"api_base": native.base_url, "api_key": "k", "max_retries": 0}

        async def ask() -> str | None:
            llm, said = OpenAIResponses(**endpoint, **settings), dict(call)
            if "tools" in said:
                tool = FunctionTool.from_defaults(add)
                said = {**llm._prepare_chat_with_tools([tool], chat_history=CHAT), **said}
                said = {k: v for k, v in said.items() if k not in {"messages", "tools"}} | {
                    "tools": llm._prepare_chat_with_tools([tool], chat_history=CHAT)["tools"]
                }
            await llm.achat(CHAT, **said)
            return llm.chat(CHAT, **said).message.content

        assert await ask() == "one two"
        substituted(behind)
        assert str(await ask()).strip() == "one two"

        wanted = as_completion(native.exchanges[-1].body)
        wanted["model"] = MODEL  # the kernel's default, where no core serves what is named
        for at in (0, 1):
            told = sent(behind, at)
            roles = [message["role"] for message in told.pop("messages")]
            assert told == wanted
        assert roles[:1] == ["system"]
        assert roles.count("system") == 1 + ("instructions" in settings)
        assert len(native.exchanges) == 2


async def test_what_only_the_responses_api_has_is_named_once(
    provider: Callable[..., StubServer],
    substituted: Callable[[StubServer], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    substituted(provider())
    llm = OpenAIResponses(model=MODEL, truncation="auto", include=["reasoning.encrypted_content"])

    for _ in range(2):
        await llm.achat(CHAT)

    said = [caplog.text.count(f"'{name}' of OpenAIResponses") for name in ("truncation", "include")]
    assert said == [1, 1]
