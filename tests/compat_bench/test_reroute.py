"""A suite of a framework passes on the kernel as it does without it, with all its fakes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from compat_bench.reroute.__main__ import ROOT, Runner, compare, main, read_report
from compat_bench.reroute.suites import SUITES, Suite, SuiteUnavailable, fetch, installed

LANGCHAIN = """
    import asyncio
    import pytest
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.store.memory import InMemoryStore

    class Fake(BaseChatModel):
        said: list = []
        way: str = ""

        @property
        def _llm_type(self):
            return "fake"

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            self.way = "sync"
            return ChatResult(generations=[ChatGeneration(message=self.said[0])])

        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            result = self._generate(messages)
            await asyncio.sleep(0)
            self.way = "async"
            return result

    def test_ids_and_metadata_are_the_fakes():
        calls = [{"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}]
        said = AIMessage("hi", id="1", name="x", response_metadata={"a": 1}, tool_calls=calls)
        got = Fake(said=[said]).invoke("hello")
        assert (got.id, got.name, got.response_metadata["a"]) == ("1", "x", 1)
        assert got.tool_calls == calls

    async def test_the_asynchronous_way_is_the_fakes():
        fake = Fake(said=[AIMessage("hi")])
        await fake.ainvoke("hello")
        assert fake.way == "async"

    def test_an_exception_is_the_fakes():
        error = LookupError("mine")

        class Failing(Fake):
            def _generate(self, *args, **kwargs):
                raise error

        with pytest.raises(LookupError) as caught:
            Failing().invoke("hello")
        assert caught.value is error

    def test_chunks_are_the_fakes():
        class Streaming(Fake):
            def _stream(self, messages, stop=None, run_manager=None, **kwargs):
                for text in ("a", "", "b"):
                    message = AIMessageChunk(text, response_metadata={"of": text})
                    yield ChatGenerationChunk(message=message)

        got = list(Streaming().stream("hello"))
        assert [one.response_metadata.get("of") for one in got][:3] == ["a", "", "b"]

    async def test_the_frameworks_own_fakes_stream():
        model = GenericFakeChatModel(messages=iter([AIMessage("hello you")]))
        assert [one.content async for one in model.astream("x")][:3] == ["hello", " ", "you"]

    def test_insides_of_a_saver_are_there():
        saver = InMemorySaver()
        checkpoint = {
            "v": 1, "id": "1", "ts": "1", "channel_values": {"a": 1},
            "channel_versions": {"a": "1"}, "versions_seen": {}, "updated_channels": None,
        }
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        saver.put(config, checkpoint, {}, {"a": "1"})
        assert saver.get_tuple(config).checkpoint["channel_values"] == {"a": 1}
        assert list(saver.storage["t"][""]) == ["1"]
        assert saver.blobs

    def test_a_store_is_one_of_its_kind():
        store = InMemoryStore()
        store.put(("a",), "k", {"v": 1})
        assert store.get(("a",), "k").value == {"v": 1}
        assert isinstance(store, InMemoryStore)
"""

AUTOGEN = """
    import pytest
    from autogen_core.models import CreateResult, RequestUsage, UserMessage
    from autogen_ext.models.replay import ReplayChatCompletionClient

    ASKED = [UserMessage(content="hello", source="me")]

    async def test_the_very_result():
        usage = RequestUsage(prompt_tokens=7, completion_tokens=3)
        said = CreateResult(finish_reason="stop", content="hi", usage=usage, cached=True)
        assert await ReplayChatCompletionClient([said]).create(ASKED) is said

    async def test_the_fakes_own_exception():
        with pytest.raises(ValueError, match="No more mock responses"):
            await ReplayChatCompletionClient([]).create(ASKED)

    async def test_a_stream_of_words():
        client = ReplayChatCompletionClient(["a b c"])
        got = [one async for one in client.create_stream(ASKED)]
        assert got[:-1] == ["a ", "b ", "c"]
        assert got[-1].content == "a b c"
"""

LLAMAINDEX = """
    import pytest
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.llms.mock import MockFunctionCallingLLM

    ASKED = [ChatMessage(role="user", content="hello")]

    async def test_whole_and_streamed():
        mock = MockFunctionCallingLLM()
        assert mock.chat(ASKED).message.content == (await mock.achat(ASKED)).message.content
        assert list(mock.stream_chat(ASKED))
        assert [one async for one in await mock.astream_chat(ASKED)]

    def test_the_mocks_own_exception():
        class Failing(MockFunctionCallingLLM):
            def chat(self, messages, **kwargs):
                raise LookupError("mine")

        with pytest.raises(LookupError, match="mine"):
            Failing().chat(ASKED)
"""

AGENT_FRAMEWORK = """
    import pytest
    from agent_framework import (
        BaseChatClient, ChatResponse, ChatResponseUpdate, Content, Message, ResponseStream,
    )

    ASKED = [Message("user", ["hello"])]

    class Fake(BaseChatClient):
        said = None

        def _inner_get_response(self, *, messages, stream, options, **kwargs):
            if stream:
                return ResponseStream(self._steps(), finalizer=ChatResponse.from_updates)
            return self._whole()

        async def _whole(self):
            if isinstance(self.said, Exception):
                raise self.said
            return self.said

        async def _steps(self):
            for text in ("a", "b"):
                said = [Content.from_text(text=text)]
                yield ChatResponseUpdate(contents=said, role="assistant", message_id=text)

    async def test_the_very_response():
        fake = Fake()
        fake.said = ChatResponse(messages=[Message("assistant", ["hi"])], response_id="1")
        assert await fake.get_response(ASKED) is fake.said

    async def test_the_fakes_own_exception():
        fake = Fake()
        fake.said = LookupError("mine")
        with pytest.raises(LookupError, match="mine"):
            await fake.get_response(ASKED)

    async def test_the_fakes_own_updates():
        stream = Fake().get_response(ASKED, stream=True)
        assert [update.message_id async for update in stream] == ["a", "b"]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("plugin", "tests", "calls"),
    [
        ("langchain", LANGCHAIN, 5),
        ("autogen", AUTOGEN, 3),
        ("agent_framework", AGENT_FRAMEWORK, 3),
        ("llamaindex", LLAMAINDEX, 5),
    ],
)
def test_a_plugin_loses_no_test(tmp_path: Path, plugin: str, tests: str, calls: int) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_fakes.py").write_text(dedent(tests))
    runner = Runner(tmp_path, ["tests"], 300)

    found = compare("fakes", {}, *runner.outcomes(plugin))

    assert set(found.after) == {"passed"}, found
    assert found.rerouted.startswith(f"{calls} calls of fake models"), found.rerouted


def test_outcomes_are_compared_test_by_test() -> None:
    before = {"a": "passed", "b": "passed", "c": "failure"}

    found = compare("s", before, {"a": "passed", "b": "failure", "c": "passed"}, "2 calls")

    assert (found.lost, found.gained) == (["b"], ["c"])
    assert found.before == {"passed": 2, "failure": 1}


def test_a_report_tells_what_became_of_each_test(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite><testcase classname='m' name='a'/>"
        "<testcase classname='m' name='b'><failure/></testcase></testsuite></testsuites>"
    )

    assert read_report(report) == {"m::a": "passed", "m::b": "failure"}


def test_a_suite_that_nobody_knows_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["langgraf"]) == 2
    assert "no suite 'langgraf'" in capsys.readouterr().err


def test_the_list_names_every_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SUITES)


def test_an_archive_without_tests_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "not_there-1.0").mkdir()

    with pytest.raises(SuiteUnavailable, match=r"no tests\. With a checkout .* langchain PATH"):
        fetch(Suite("not-there", "langchain"), tmp_path)


def test_an_environment_of_a_suite_keeps_what_is_installed_but_for_what_the_suite_names() -> None:
    names = {line.partition("==")[0] for line in installed(["Pytest[x]<9"])}

    assert "pytest" not in names
    assert "pytest-asyncio" in names


def test_the_command_says_what_it_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compat_bench.reroute", "--help"],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "PLUGIN PATH" in done.stdout
