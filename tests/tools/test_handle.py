"""`agent.tools`: the calls of models, the messages they get, and the tools they are offered."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aios_core import InvalidRequest, Message, StateError, ToolCall, WouldBlock
from aios_core.cores.scripted import ScriptedCore
from aios_core.syscalls import LLMGenerate

from .rig import PATIENCE, Held, make, quiet_kernel

BARRIER_S = PATIENCE


def test_the_calls_of_one_completion_run_in_parallel_and_are_answered_in_order() -> None:
    meeting = threading.Barrier(3)

    def meet(who: str) -> str:
        meeting.wait(BARRIER_S)
        return who

    with quiet_kernel() as kernel:
        kernel.load_tools(make("meet", meet))
        agent = kernel.spawn("alice")
        calls = [ToolCall(f"c{n}", "meet", f'{{"who": "{n}"}}') for n in range(3)]

        messages = agent.tools.run_calls(calls)

        assert [(m.role, m.tool_call_id, m.content) for m in messages] == [
            ("tool", "c0", "0"),
            ("tool", "c1", "1"),
            ("tool", "c2", "2"),
        ]


def test_a_model_is_told_what_it_can_mend_and_the_other_calls_go_on() -> None:
    def fail() -> None:
        raise OSError("no network")

    with quiet_kernel() as kernel:
        kernel.load_tools(make("echo", lambda who: {"said": who}))
        kernel.load_tools(make("fail", fail))
        agent = kernel.spawn("alice")
        calls = [
            ToolCall("1", "echo", '{"who": "é"}'),
            ToolCall("2", "echo", '{"wo": 1}'),
            ToolCall("3", "ecco", "{}"),
            ToolCall("4", "echo", "{who"),
            ToolCall("5", "fail", ""),
        ]

        texts = [message.content for message in agent.tools.run_calls(calls)]

    assert texts[0] == '{"said": "é"}'
    assert texts[1] == (
        "InvalidArguments: arguments of 'echo' do not fit: wo: is unknown; did you mean 'who'? "
        "allowed: who"
    )
    assert texts[2] == "NoSuchObject: no tool 'ecco'; have ['echo', 'fail']; did you mean 'echo'?"
    assert texts[3].startswith("InvalidArguments: arguments of 'echo' do not fit: arguments: not")
    assert texts[4] == "ToolError: tool 'fail': raised OSError: no network"


def test_what_a_model_cannot_mend_is_raised() -> None:
    with quiet_kernel("/dev/null/state") as kernel:
        kernel.load_tools(make("write", lambda: 1, read_only=False))
        with pytest.raises(StateError):
            kernel.spawn("alice").tools.run_calls([ToolCall("1", "write", "{}")])


async def test_on_a_loop_the_blocking_form_is_refused_and_the_other_works() -> None:
    async with quiet_kernel() as kernel:
        await kernel.aload_tools(make("echo", lambda who: who))
        agent = await kernel.aspawn("alice")
        calls = [ToolCall("1", "echo", '{"who": "me"}')]
        with pytest.raises(WouldBlock, match="arun_calls"):
            agent.tools.run_calls(calls)
        [message] = await agent.tools.arun_calls(calls)
        assert message.content == "me"


async def test_cancelling_the_calls_cancels_each() -> None:
    held = Held()
    async with quiet_kernel() as kernel:
        await kernel.aload_tools(make("slow", held))
        agent = await kernel.aspawn("alice")
        calls = [ToolCall(f"{n}", "slow", "{}") for n in range(2)]
        running = asyncio.ensure_future(agent.tools.arun_calls(calls))
        assert await asyncio.to_thread(held.has_begun, 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await agent.tools.alist())[0].num_waiting == 0
        held.may_end.set()


def test_specs_are_what_a_model_is_offered() -> None:
    with quiet_kernel() as kernel:
        for version in ("1", "2"):
            kernel.load_tools(make("echo", lambda who: who, version=version))
        kernel.load_tools(make("other", lambda: 1))
        agent = kernel.spawn("alice")
        assert [spec.name for spec in agent.tools.specs()] == ["echo", "other"]
        [spec] = agent.tools.specs("echo")
        assert spec.to_dict()["function"]["parameters"]["properties"] == {"who": {"type": "string"}}
        with pytest.raises(InvalidRequest, match=r"no tools \['eco'\]"):
            agent.tools.specs("eco")
        with pytest.raises(InvalidRequest, match="allowed: a text"):
            agent.tools.specs(["echo"])  # type: ignore[arg-type]


def test_a_completion_of_a_model_is_served_from_specs_to_messages() -> None:
    def model(request: LLMGenerate) -> ToolCall | str:
        last = request.messages[-1]
        if last.role == "tool":
            return f"It said {last.content}."
        return ToolCall("1", request.tools[0].name, '{"who": "hello"}')

    with quiet_kernel(core=ScriptedCore(model)) as kernel:
        kernel.load_tools(make("echo", lambda who: who))
        agent = kernel.spawn("alice")
        conversation = [Message("user", "say hello")]
        first = agent.llm.generate(conversation, tools=agent.tools.specs())
        conversation += [first.message, *agent.tools.run_calls(first.tool_calls)]
        assert agent.llm.generate(conversation).text == "It said hello."
