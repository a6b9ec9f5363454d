"""Recording and replaying: the contract, matching, and files that are not what they should be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aios_core.core import Core, Failed, Finished, Progress
from aios_core.cores.deltas import assemble
from aios_core.cores.replay import RecordingCore, ReplayCore
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import ModelLoadError, NoSuchObject, RateLimited
from aios_core.messages import (
    Choice,
    Completion,
    FinishReason,
    Message,
    Sampling,
    ToolCall,
    ToolSpec,
    Usage,
    parse_messages,
)
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract, Rig

STORY = "Once upon a time there was a kernel that never lost a single call of its agents."
CALL = ToolCall("call_7", "add", '{"a": 1, "b": 2}')


def ask(text: str = "hello there", **fields: Any) -> LLMGenerate:
    return LLMGenerate(parse_messages(text), **fields)


async def record(path: Path, script: Any, *requests: LLMGenerate) -> None:
    rig = Rig(RecordingCore(ScriptedCore(script, token_s=0.0001), path))
    await rig.core.start(rig.sink)
    for request in requests:
        await rig.end(await rig.run(request))
    await rig.core.close()


async def replaying(path: Path, **options: Any) -> Rig:
    rig = Rig(ReplayCore(path, **options))
    await rig.core.start(rig.sink)
    return rig


class TestContractOfRecording(CoreContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "run.jsonl"

    def make_core(self) -> Core:
        inner = ScriptedCore(STORY, token_s=0.001, preemptible=True)
        return RecordingCore(inner, self.path)


class TestContractOfReplaying(CoreContract):
    @pytest.fixture(autouse=True)
    async def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "run.jsonl"
        requests = [self.request(limit) for limit in (3, 5, 24)]
        await record(self.path, lambda r: CALL if r.tools else STORY, *requests, self.tools())

    def tools(self) -> LLMGenerate:
        return ask("add", tools=(ToolSpec("add"),))

    def tool_request(self) -> LLMGenerate:
        return self.tools()

    def make_core(self) -> Core:
        return ReplayCore(self.path, token_s=0.001, preemptible=True)


async def test_a_recording_says_the_same_in_the_same_pieces(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    inner = Rig(RecordingCore(ScriptedCore([STORY, CALL], token_s=0.0001), path))
    await inner.core.start(inner.sink)
    first = await inner.run(ask("tell"))
    second = await inner.run(ask("add"))
    spoken = [await inner.answer(first), await inner.answer(second)]
    await inner.core.close()

    rig = await replaying(path)
    replayed = [await rig.run(ask("tell")), await rig.run(ask("add"))]

    assert [await rig.answer(run) for run in replayed] == spoken
    for run, original in zip(replayed, (first, second), strict=True):
        deltas = [progress.delta for progress in rig.progress(run)]
        assert deltas == [progress.delta for progress in inner.progress(original)]


async def test_an_interrupted_run_is_recorded_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    core = RecordingCore(ScriptedCore(STORY, token_s=0.001, preemptible=True), path)
    rig = Rig(core)
    await core.start(rig.sink)
    request = ask()
    run = await rig.run(request)
    await rig.tokens(run, 2)
    core.preempt(run)
    end = await rig.end(run)
    await rig.run(request, snapshot=end.snapshot, id=run)  # type: ignore[union-attr]
    await rig.end(run)
    await core.close()

    assert (await (await replaying(path)).generate(request)).text == STORY


async def test_the_same_request_again_gets_the_next_answer_and_then_the_last(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.jsonl"
    await record(path, ["one", "two"], ask(), ask())
    rig = await replaying(path)

    assert [(await rig.generate(ask())).text for _ in range(3)] == ["one", "two", "two"]


async def test_ids_of_tool_calls_do_not_tell_requests_apart(tmp_path: Path) -> None:
    def with_id(name: str) -> LLMGenerate:
        call = ToolCall(name, "add", "{}")
        said = Message("assistant", tool_calls=(call,))
        return LLMGenerate((Message("user", "2+2?"), said, Message("tool", "4", tool_call_id=name)))

    path = tmp_path / "run.jsonl"
    await record(path, "four", with_id("call_a1b2"))

    assert (await (await replaying(path)).generate(with_id("call_zzz"))).text == "four"


async def test_an_unknown_request_names_the_closest_and_where_they_differ(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    await record(path, "yes", ask("What is the weather in Oslo?"), ask("Sing!"))
    rig = await replaying(path)

    with pytest.raises(NoSuchObject) as caught:
        await rig.prepare(ask("What is the weather in Rome?"))
    assert "have ['What is the weather in Oslo?']" in str(caught.value)
    with pytest.raises(NoSuchObject) as caught:
        await rig.prepare(replace(ask("Sing!"), sampling=Sampling(temperature=1.0)))
    assert "differs in: sampling" in caught.value.__notes__[0]


async def test_failures_are_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    await record(path, [RateLimited("busy", 1.0), "yes"], ask(), ask())

    assert (await (await replaying(path)).generate(ask())).text == "yes"


async def test_recording_goes_on_after_a_restart_and_begins_anew_with_a_new_core(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.jsonl"
    core = RecordingCore(ScriptedCore("first"), path)
    rig = Rig(core)
    for prompt in ("a", "b"):
        await core.start(rig.sink)
        await rig.generate(ask(prompt))
        await core.close()
    both = await replaying(path)
    texts = [(await both.generate(ask(prompt))).text for prompt in ("a", "b")]
    await record(path, "second", ask("a"))

    assert texts == ["first", "first"]
    assert (await (await replaying(path)).generate(ask("a"))).text == "second"


async def test_a_directory_that_is_missing_does_not_start(tmp_path: Path) -> None:
    core = RecordingCore(ScriptedCore("yes"), tmp_path / "missing" / "run.jsonl")

    with pytest.raises(ModelLoadError, match="missing"):
        await core.start(lambda _: None)
    assert not core.load().is_up


@pytest.mark.parametrize(
    ("line", "damage"),
    [(2, "{"), (2, "[]"), (3, '{"asked": {}}'), (3, '{"asked": 1, "deltas": [], "answer": {}}')],
)
async def test_a_damaged_line_is_named(tmp_path: Path, line: int, damage: str) -> None:
    path = tmp_path / "run.jsonl"
    await record(path, "yes", ask("a"), ask("b"))
    lines = path.read_text().splitlines()
    lines[line - 1] = damage
    path.write_text("\n".join(lines))

    with pytest.raises(ModelLoadError, match=f"line {line}"):
        ReplayCore(path)


@pytest.mark.parametrize("text", ["", '{"models": ["m"]}\n', '{"format": 99}\n', "\udcff"])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text, errors="surrogateescape")

    with pytest.raises(ModelLoadError, match=r"run\.jsonl"):
        ReplayCore(path)


def test_a_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot read"):
        ReplayCore(tmp_path / "none.jsonl")


async def test_an_empty_recording_answers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps({"format": 1, "models": ["m"], "context_window": 10}) + "\n")
    rig = await replaying(path)

    with pytest.raises(NoSuchObject, match="no recorded answer to 'hi'"):
        await rig.prepare(ask("hi"))


async def test_nothing_is_kept_of_a_run_that_is_over(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    core = RecordingCore(ScriptedCore([RateLimited("busy", 1.0), "yes"]), path)
    rig = Rig(core)
    await core.start(rig.sink)
    end = await rig.end(await rig.run(ask()))
    await rig.generate(ask())
    await core.close()

    assert isinstance(end, Failed)
    assert not core._asked
    assert not core._deltas


async def test_a_recording_keeps_everything_that_an_answer_holds(tmp_path: Path) -> None:
    rich = Completion(
        Message(
            "assistant",
            "yes",
            reasoning="hm",
            thinking=({"type": "thinking", "signature": "s"},),
            refusal="no more",
            extra={"audio": {"id": "a"}},
        ),
        FinishReason.CONTENT_FILTER,
        Usage(5, 4, 3, 2, 1, 1, 1, is_estimated=True),
        "scripted",
        choices=(Choice(Message("assistant", "second"), FinishReason.STOP),),
        logprobs={"content": [{"token": "yes", "logprob": -0.5}]},
        backend_finish_reason="safety",
        id="chatcmpl-7",
        fingerprint="fp",
        extra={"service_tier": "flex"},
        choice_extra={"stop_reason": 7},
    )
    await record(tmp_path / "run.jsonl", [rich], ask())
    rig = await replaying(tmp_path / "run.jsonl")
    run = await rig.run(ask())
    end = await rig.end(run)
    said = [report.delta for report in rig.reports[run] if isinstance(report, Progress)]

    assert isinstance(end, Finished)
    assert end.completion == rich
    assert assemble(delta for delta in said if not delta.choice).message() == rich.message
    assert assemble(delta for delta in said if delta.choice).text == "second"
    await rig.core.close()


async def test_a_recording_of_the_first_format_is_read(tmp_path: Path) -> None:
    asked = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "hello there"}],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": None,
        "sampling": {
            "max_tokens": None, "temperature": 0.0, "top_p": 1.0, "top_k": None, "seed": None,
            "stop": [],
        },
        "extra": {},
    }  # fmt: skip
    answer = {
        "message": {"role": "assistant", "content": "hi"},
        "finish_reason": "stop",
        "usage": [2, 1, 0],
        "model": "scripted",
    }
    lines = [
        {"format": 1, "models": ["scripted"], "context_window": 100},
        {"asked": asked, "deltas": [{"text": "hi"}], "answer": answer},
    ]
    path = tmp_path / "old.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    rig = await replaying(path)

    assert (await rig.generate(ask())).text == "hi"
    await rig.core.close()
