"""`AIOSLLM` keeps the contract of LlamaIndex's `FunctionCallingLLM`."""

from __future__ import annotations

import asyncio
import copy
import pickle
from contextlib import aclosing, closing
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    ChatResponse,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.aios import AIOSEmbedding
from llama_index.llms.aios import AIOSLLM
from pydantic import BaseModel, ValidationError

from aios_core import (
    Completion,
    EventKind,
    FinishReason,
    Kernel,
    NoSuchObject,
    ToolCall,
    Usage,
)
from aios_core.messages import Message
from aios_core.testing.event_watcher import FOREVER_S, EventWatcher
from llama_index_aios.translation import to_chat_response, to_messages

from .conftest import Boot

HELLO = [ChatMessage(role="user", content="hi")]


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


ADD = FunctionTool.from_defaults(add)
TWO_CALLS = Message(
    "assistant",
    tool_calls=(
        ToolCall("c1", "add", '{"a": 1, "b": 2}'),
        ToolCall("c2", "add", '{"a": 3, "b": 4}'),
    ),
)


class TestEightWaysToCall:
    def test_chat(self, kernel: Kernel) -> None:
        response = AIOSLLM(kernel=kernel).chat(HELLO)

        assert response.message.content == "You said: hi"

    async def test_achat(self, kernel: Kernel) -> None:
        assert (await AIOSLLM(kernel=kernel).achat(HELLO)).message.content == "You said: hi"

    def test_stream_chat_holds_all_that_was_said_and_its_deltas_add_up(
        self, kernel: Kernel
    ) -> None:
        steps = list(AIOSLLM(kernel=kernel).stream_chat(HELLO))

        assert "".join(step.delta or "" for step in steps) == "You said: hi"
        assert steps[-1].message.content == "You said: hi"

    async def test_astream_chat(self, kernel: Kernel) -> None:
        stream = await AIOSLLM(kernel=kernel).astream_chat(HELLO)

        assert [step async for step in stream][-1].message.content == "You said: hi"

    def test_complete(self, kernel: Kernel) -> None:
        assert AIOSLLM(kernel=kernel).complete("hi").text == "You said: hi"

    async def test_acomplete(self, kernel: Kernel) -> None:
        assert (await AIOSLLM(kernel=kernel).acomplete("hi")).text == "You said: hi"

    def test_stream_complete(self, kernel: Kernel) -> None:
        steps = list(AIOSLLM(kernel=kernel).stream_complete("hi"))

        assert [steps[-1].text, "".join(s.delta or "" for s in steps)] == ["You said: hi"] * 2

    async def test_astream_complete(self, kernel: Kernel) -> None:
        stream = await AIOSLLM(kernel=kernel).astream_complete("hi")

        assert [step async for step in stream][-1].text == "You said: hi"

    def test_the_default_kernel_answers_where_none_is_named(self, as_default: Kernel) -> None:
        assert AIOSLLM().complete("hi").text == "You said: hi"
        assert as_default.pool.models == ("scripted",)


class TestUsageAndEvents:
    def test_usage_is_where_token_counters_look_for_it(self, kernel: Kernel) -> None:
        response = AIOSLLM(kernel=kernel).chat(HELLO)

        assert response.additional_kwargs == {
            "prompt_tokens": 1,
            "completion_tokens": 3,
            "total_tokens": 4,
        }
        assert response.raw["usage"]["total_tokens"] == 4

    def test_usage_appears_once_in_a_stream(self, kernel: Kernel) -> None:
        steps = list(AIOSLLM(kernel=kernel).stream_chat(HELLO))

        assert [bool(step.additional_kwargs) for step in steps] == [False] * (len(steps) - 1) + [
            True
        ]

    def test_llama_indexs_own_events_are_sent(self, kernel: Kernel) -> None:
        class Listener(BaseEventHandler):
            seen: list[str] = []  # noqa: RUF012 - a pydantic field

            def handle(self, event: Any, **_: Any) -> None:
                self.seen.append(event.class_name())

        listener, dispatcher = Listener(), get_dispatcher()
        dispatcher.add_event_handler(listener)
        try:
            AIOSLLM(kernel=kernel).chat(HELLO)
        finally:
            dispatcher.event_handlers.remove(listener)

        assert listener.seen == ["LLMChatStartEvent", "LLMChatEndEvent"]


class TestTools:
    def test_a_tool_is_called_with_the_models_arguments(self, kernel: Kernel) -> None:
        answer = AIOSLLM(kernel=kernel).predict_and_call([ADD], "add 3 and 4")

        assert answer.response == "7"

    def test_calls_are_blocks_of_the_message(self, kernel: Kernel) -> None:
        llm = AIOSLLM(kernel=kernel)

        response = llm.chat_with_tools([ADD], "add 3 and 4")

        (call,) = llm.get_tool_calls_from_response(response)
        assert (call.tool_name, call.tool_kwargs) == ("add", {"a": 3, "b": 4})

    def test_a_stream_carries_the_calls_too(self, kernel: Kernel) -> None:
        steps = list(AIOSLLM(kernel=kernel).stream_chat_with_tools([ADD], "add 3 and 4"))

        blocks = [b for b in steps[-1].message.blocks if isinstance(b, ToolCallBlock)]
        assert [block.tool_name for block in blocks] == ["add"]

    @pytest.mark.parametrize(("is_allowed", "count"), [(True, 2), (False, 1)])
    def test_the_flag_for_parallel_calls_is_honoured(
        self, boot: Boot, is_allowed: bool, count: int
    ) -> None:
        llm = AIOSLLM(kernel=boot([TWO_CALLS]))

        response = llm.chat_with_tools([ADD], "add", allow_parallel_tool_calls=is_allowed)

        assert len(llm.get_tool_calls_from_response(response)) == count

    def test_a_required_tool_is_asked_for_as_such(self, kernel: Kernel) -> None:
        AIOSLLM(kernel=kernel).chat_with_tools([ADD], "hello", tool_required=True)

        (core,) = kernel.pool
        assert core.requests[-1].tool_choice == "required"  # type: ignore[attr-defined]

    def test_an_answer_without_a_call_is_told_where_one_had_to_be(self, boot: Boot) -> None:
        llm = AIOSLLM(kernel=boot("no"))

        with pytest.raises(ValueError, match="expected a tool call, and got the text 'no'"):
            llm.get_tool_calls_from_response(llm.chat_with_tools([ADD], "add"))

    def test_results_of_tools_go_back_to_the_model(self, kernel: Kernel) -> None:
        llm = AIOSLLM(kernel=kernel)
        asked = ChatMessage(role="user", content="add 3 and 4")
        called = llm.chat_with_tools([ADD], chat_history=[asked]).message
        result = ChatMessage(role="tool", content="7", additional_kwargs={"tool_call_id": "x"})

        assert llm.chat([asked, called, result]).message.content == "The tool said: 7"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def calls_only_if_it_must(request: Any) -> Message:
    if request.tool_choice == "auto":
        return Message("assistant", "Ada is 36.")
    call = ToolCall("c1", request.tools[0].name, '{"name": "Ada", "age": 36}')
    return Message("assistant", tool_calls=(call,))


class TestStructuredOutput:
    def test_structured_predict(self, kernel: Kernel) -> None:
        llm: LLM = AIOSLLM(kernel=kernel)

        found = llm.structured_predict(Person, PromptTemplate("about 'Ada', who is 36"))

        assert found == Person(name="Ada", age=36)

    async def test_as_structured_llm(self, kernel: Kernel) -> None:
        llm = AIOSLLM(kernel=kernel).as_structured_llm(Person)

        response = await llm.achat([ChatMessage(role="user", content="'Ada', who is 36")])

        assert response.raw == Person(name="Ada", age=36)

    async def test_a_stream_of_objects_has_to_call_the_tool_too(self, boot: Boot) -> None:
        llm, prompt = AIOSLLM(kernel=boot(calls_only_if_it_must)), PromptTemplate("about Ada")

        steps = list(llm.stream_structured_predict(Person, prompt))
        asteps = [step async for step in await llm.astream_structured_predict(Person, prompt)]

        assert steps[-1] == asteps[-1] == Person(name="Ada", age=36)


class TestTakingBack:
    async def test_cancelling_the_task_frees_the_slot(
        self, boot: Boot, watch: EventWatcher
    ) -> None:
        llm = AIOSLLM(kernel=boot("slow", latency_s=FOREVER_S))
        task = asyncio.create_task(llm.achat(HELLO))
        await watch.async_wait(EventKind.DISPATCHED)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await watch.async_wait(EventKind.CANCELLED)

    async def test_closing_an_asynchronous_stream_frees_the_slot(
        self, boot: Boot, watch: EventWatcher
    ) -> None:
        llm = AIOSLLM(kernel=boot(["one two three"] * 2, token_s=0.01))
        for stream in (await llm.astream_chat(HELLO), await llm.astream_complete("hi")):
            async with aclosing(stream):  # type: ignore[type-var]
                async for _ in stream:
                    break

        await watch.async_wait(EventKind.CANCELLED, 2)

    def test_a_stream_that_is_left_when_its_loop_ends_ends_quietly(
        self, boot: Boot, watch: EventWatcher
    ) -> None:
        llm = AIOSLLM(kernel=boot("word " * 10_000, token_s=0.001))
        complaints: list[Any] = []

        async def leave() -> None:
            async for _ in await llm.astream_chat(HELLO):
                break

        for _ in range(6):  # the loop closes what is left in any order
            with asyncio.Runner() as runner:
                runner.get_loop().set_exception_handler(lambda _, said: complaints.append(said))
                runner.run(leave())

        assert complaints == []
        watch.wait(EventKind.CANCELLED, 6)

    def test_closing_a_stream_frees_the_slot(self, boot: Boot, watch: EventWatcher) -> None:
        llm = AIOSLLM(kernel=boot(["one two three"] * 2, token_s=0.01))

        with closing(llm.stream_chat(HELLO)) as steps:  # type: ignore[type-var]
            next(steps)
        with closing(llm.stream_complete("hi")) as texts:  # type: ignore[type-var]
            next(texts)

        watch.wait(EventKind.CANCELLED, 2)


class TestSettings:
    def test_settings_of_a_call_go_before_those_of_the_model(self, kernel: Kernel) -> None:
        AIOSLLM(kernel=kernel, temperature=0.5, max_tokens=9).chat(HELLO, temperature=0.7, top_k=3)

        (core,) = kernel.pool
        sampling = core.requests[-1].sampling  # type: ignore[attr-defined]
        assert (sampling.temperature, sampling.max_tokens) == (0.7, 9)
        assert core.requests[-1].extra == {"top_k": 3} or sampling.top_k == 3  # type: ignore[attr-defined]

    def test_the_window_is_that_of_the_core(self, boot: Boot) -> None:
        llm = AIOSLLM(kernel=boot("ok", context_window=77), max_tokens=5)

        assert (llm.metadata.context_window, llm.metadata.num_output) == (77, 5)

    def test_the_window_is_that_of_the_embedded_kernels_core(self, as_default: Kernel) -> None:
        (core,) = as_default.pool
        metadata = AIOSLLM().metadata

        assert metadata.context_window == core.capabilities.context_window
        assert f"context_window={metadata.context_window}" in repr(metadata)

    def test_only_who_reads_the_window_starts_a_kernel(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def start() -> Kernel:
            raise AssertionError("a kernel is started")

        monkeypatch.setattr("llama_index_aios.llm.default_kernel", start)
        llm = AIOSLLM()

        assert llm.metadata.is_function_calling_model
        assert "context_window" not in llm.to_payload()
        assert AIOSLLM(context_window=9).to_payload()["context_window"] == 9
        with pytest.raises(AssertionError, match="a kernel is started"):
            assert llm.metadata.context_window

    def test_the_tokenizer_counts_as_the_core_does(self, kernel: Kernel) -> None:
        count = AIOSLLM(kernel=kernel).tokenizer

        said = ("one", "one two three", "", " \n")
        assert [len(count(text)) for text in said] == [1, 3, 0, 0]

    @pytest.mark.parametrize("ours", [AIOSLLM, AIOSEmbedding])
    def test_an_argument_that_there_is_not_is_refused(self, ours: Any) -> None:
        with pytest.raises(ValidationError, match="modle"):
            ours(modle="tiny")

    def test_an_unknown_model_is_refused_with_those_that_there_are(self, kernel: Kernel) -> None:
        with pytest.raises(NoSuchObject, match=r"no model 'gpt-9'; have \['scripted'\]"):
            AIOSLLM(kernel=kernel, model="gpt-9").complete("hi")

    def test_blocks_are_parts_of_messages(self) -> None:
        blocks = [
            TextBlock(text="see"),
            ImageBlock(url="http://x/y.png", detail="low"),
            AudioBlock(audio=b"RIFF\x00", format="wav"),
            DocumentBlock(data=b"%PDF", title="a.pdf", document_mimetype="application/pdf"),
            CachePoint(cache_control=CacheControl(type="ephemeral")),
        ]

        (message,) = to_messages([ChatMessage(role="user", blocks=blocks)])

        assert message.content == "see"
        assert message.to_dict()["content"] == [
            {"type": "text", "text": "see"},
            {"type": "image_url", "image_url": {"url": "http://x/y.png", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "UklGRgA=", "format": "wav"}},
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
                "cache_control": {"type": "ephemeral", "ttl": "5m"},
            },
        ]

    def test_thoughts_roles_and_names_go_both_ways(self) -> None:
        thought = ThinkingBlock(content="hm", additional_information={"signature": "s"})
        said = ChatMessage(
            role="assistant",
            blocks=[thought, TextBlock(text="well")],
            additional_kwargs={"name": "ann"},
        )

        first, second = to_messages([ChatMessage(role="developer", content="be kind"), said])
        back = to_chat_response(Completion(second, FinishReason.STOP, Usage(1, 1), "m")).message

        assert first == Message("developer", "be kind")
        assert (second.name, second.content) == ("ann", "well")
        assert second.to_dict()["thinking_blocks"] == [
            {"type": "thinking", "thinking": "hm", "signature": "s"}
        ]
        assert back.blocks == said.blocks

    def test_an_answer_keeps_reasoning_refusal_and_log_probabilities(self) -> None:
        top = {"token": "4", "logprob": -0.1, "bytes": [52]}
        answer = Message("assistant", reasoning="hm", refusal="I may not.")
        logprobs = {"content": [{**top, "top_logprobs": [top, {**top, "token": "5"}]}]}

        said = to_chat_response(
            Completion(answer, FinishReason.CONTENT_FILTER, Usage(1, 1), "m", logprobs=logprobs)
        )

        assert said.message.blocks == [ThinkingBlock(content="hm"), TextBlock(text="I may not.")]
        assert said.message.additional_kwargs == {"refusal": "I may not."}
        assert said.raw["choices"][0]["finish_reason"] == "content_filter"
        assert [[one.token for one in each] for each in said.logprobs or []] == [["4", "5"]]

    def test_a_copy_stays_on_its_kernel_and_a_pickled_one_finds_the_default(
        self, as_default: Kernel
    ) -> None:
        llm = AIOSLLM(kernel=as_default, temperature=0.5, agent="me")

        assert copy.deepcopy(llm).kernel is as_default
        woken = pickle.loads(pickle.dumps(llm))  # noqa: S301 - our own bytes
        assert (woken.kernel, woken.temperature, woken.agent) == (None, 0.5, "me")
        assert woken.complete("hi").text == "You said: hi"

    def test_the_serialized_form_goes_there_and_back(self, kernel: Kernel) -> None:
        llm = AIOSLLM(kernel=kernel, model="scripted", seed=3)

        assert AIOSLLM.from_dict(llm.to_dict()).seed == 3

    def test_many_event_loops_share_one_llm(self, kernel: Kernel) -> None:
        llm = AIOSLLM(kernel=kernel)

        def ask() -> ChatResponse:
            return asyncio.run(llm.achat(HELLO))

        assert [ask().message.content for _ in range(3)] == ["You said: hi"] * 3
