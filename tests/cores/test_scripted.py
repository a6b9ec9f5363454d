"""The scripted core: the contract with and without latency, and what can be scripted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aios_core.core import Core, Failed, Finished, Preempted, Prepared, Progress, Report, Run
from aios_core.cores.scripted import Script, ScriptedCore
from aios_core.errors import (
    CoreError,
    InvalidRequest,
    NoSuchObject,
    RateLimited,
    SnapshotError,
)
from aios_core.messages import (
    Completion,
    Delta,
    FinishReason,
    Message,
    ToolCall,
    Usage,
    parse_messages,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing import run_virtual
from aios_core.testing.core_contract import CoreContract, Rig

STORY = "Once upon a time there was a kernel that never lost a single call of its agents."
CALL = ToolCall("call_7", "add", '{"a": 1, "b": 2}')


def ask(text: str = "hello there", **fields: Any) -> LLMGenerate:
    return LLMGenerate(parse_messages(text), **fields)


async def started(script: Script, **options: Any) -> Rig:
    rig = Rig(ScriptedCore(script, **options))
    await rig.core.start(rig.sink)
    return rig


class _Scripted(CoreContract):
    def script(self, request: LLMGenerate) -> str | ToolCall:
        return CALL if request.messages[-1].content == "add" else STORY

    def tool_request(self) -> LLMGenerate:
        return ask("add")


class TestContractAtOnce(_Scripted):
    def make_core(self) -> Core:
        return ScriptedCore(self.script)


class TestContractInTime(_Scripted):
    def make_core(self) -> Core:
        return ScriptedCore(self.script, latency_s=0.001, token_s=0.001, preemptible=True)


# --- scripts ----------------------------------------------------------------------------------


async def test_a_text_is_always_the_answer() -> None:
    rig = await started("yes")

    assert [(await rig.generate(ask())).text for _ in range(3)] == ["yes"] * 3


async def test_a_list_is_one_answer_after_the_other() -> None:
    whole = Completion(Message("assistant", "four"), FinishReason.STOP, Usage(7, 8), "m")
    rig = await started(["one", CALL, [CALL, CALL], Message("assistant", "three"), whole])

    answers = [await rig.generate(ask()) for _ in range(5)]

    assert [answer.text for answer in answers] == ["one", "", "", "three", "four"]
    assert [len(answer.tool_calls) for answer in answers] == [0, 1, 2, 0, 0]
    assert answers[1].finish_reason is FinishReason.TOOL_CALLS
    assert answers[4] is whole


async def test_a_used_up_list_says_what_was_asked_and_what_was_scripted() -> None:
    rig = await started(["only this"])
    await rig.generate(ask())
    end = await rig.end(await rig.run(ask("one more?")))

    assert isinstance(end, Failed)
    assert isinstance(end.error, InvalidRequest)
    assert "'one more?'" in str(end.error)
    assert "'only this'" in str(end.error)


async def test_a_mapping_is_looked_up_by_the_last_message_and_names_its_keys() -> None:
    rig = await started({"2+2?": "4"})

    assert (await rig.generate(ask("2+2?"))).text == "4"
    end = await rig.end(await rig.run(ask("3+3?")))
    assert isinstance(end, Failed)
    assert isinstance(end.error, NoSuchObject)
    assert str(end.error) == "no scripted answer to '3+3?'; have ['2+2?']"


async def test_a_function_sees_the_request() -> None:
    rig = await started(lambda request: request.messages[-1].content.upper())

    assert (await rig.generate(ask("shout"))).text == "SHOUT"


async def test_a_function_that_returns_nothing_or_raises_fails_that_call_alone() -> None:
    def script(request: LLMGenerate) -> str | None:
        return {"bad": None, "good": "yes"}[request.messages[-1].content]

    rig = await started(script)
    unscripted = await rig.end(await rig.run(ask("bad")))
    broken = await rig.end(await rig.run(ask("worse")))

    assert isinstance(unscripted, Failed)
    assert isinstance(unscripted.error, NoSuchObject)
    assert isinstance(broken, Failed)
    assert isinstance(broken.error, CoreError)
    assert isinstance(broken.error.__cause__, KeyError)
    assert (await rig.generate(ask("good"))).text == "yes"


@pytest.mark.parametrize("options", [{}, {"token_s": 0.001}], ids=["at once", "in time"])
async def test_an_error_is_the_end_of_the_call(options: dict[str, Any]) -> None:
    busy = RateLimited("busy", 2.0)
    rig = await started([busy, "yes"], **options)
    end = await rig.end(await rig.run(ask()))

    assert isinstance(end, Failed)
    assert end.error is busy
    assert end.usage == Usage()
    assert (await rig.generate(ask())).text == "yes"


@pytest.mark.parametrize("options", [{}, {"token_s": 0.001}], ids=["at once", "in time"])
async def test_deltas_stream_as_they_are_and_may_break_off(options: dict[str, Any]) -> None:
    died = CoreError("scripted", "died")
    rig = await started([[Delta("a b"), Delta("c")], [Delta("a"), died]], **options)
    run = await rig.run(ask())
    completion = await rig.answer(run)
    broken = await rig.run(ask())
    end = await rig.end(broken)

    assert [progress.delta.text for progress in rig.progress(run)] == ["a b", "c"]
    assert (completion.text, completion.usage.output_tokens) == ("a bc", 2)
    assert [progress.delta.text for progress in rig.progress(broken)] == ["a"]
    assert isinstance(end, Failed)
    assert end.error is died


async def test_requests_are_there_to_be_looked_at() -> None:
    rig = await started("yes")
    assert isinstance(rig.core, ScriptedCore)
    await rig.generate(ask("first"))
    await rig.generate(ask("second"))

    assert [request.messages[0].content for request in rig.core.requests] == ["first", "second"]


# --- time -------------------------------------------------------------------------------------


async def test_without_latency_a_run_ends_inside_run_and_makes_no_task() -> None:
    reports: list[Report] = []
    core = ScriptedCore("one two")
    await core.start(reports.extend)
    tasks = asyncio.all_tasks()
    core.run(Run(1, 1, ask(), Prepared(2, 100)))

    assert [type(report) for report in reports] == [Progress, Finished]
    assert asyncio.all_tasks() == tasks


def test_latency_and_tokens_take_the_loops_time() -> None:
    async def main() -> float:
        done = asyncio.Event()
        core = ScriptedCore("one two three four", latency_s=100.0, token_s=10.0)
        await core.start(lambda new: done.set() if isinstance(new[-1], Finished) else None)
        core.run(Run(1, 1, ask(), Prepared(2, 100)))
        await done.wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(140.0)


async def test_a_plan_that_breaks_off_is_not_preempted() -> None:
    died = CoreError("scripted", "died")
    rig = await started([[Delta("a"), Delta("b"), died]], token_s=0.001, preemptible=True)
    run = await rig.run(ask())
    await rig.tokens(run)
    rig.core.preempt(run)

    assert isinstance(await rig.end(run), Failed)


async def test_a_tool_call_is_resumed_in_the_middle_of_its_arguments() -> None:
    rig = await started([CALL], token_s=0.001, preemptible=True)
    request = ask()
    prepared = await rig.prepare(request)
    run = rig.begin(request, prepared)
    await rig.tokens(run, 2)
    rig.core.preempt(run)
    end = await rig.end(run)
    assert isinstance(end, Preempted)
    rig.go(Run(run, 1, request, prepared, snapshot=end.snapshot))

    assert (await rig.answer(run)).tool_calls == (CALL,)


async def test_a_damaged_snapshot_is_refused() -> None:
    rig = await started("yes", token_s=0.001, preemptible=True)
    run = await rig.run(ask(), snapshot=Snapshot("scripted", sampler=b"{}"))
    end = await rig.end(run)

    assert isinstance(end, Failed)
    assert isinstance(end.error, SnapshotError)
