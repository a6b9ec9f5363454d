"""The OpenAI-compatible core against a real vLLM server. Run by `make test-vllm`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from aios_core.core import Core, Failed, Preempted, Report, Run, Stopped, count_prompt
from aios_core.cores.openai.core import OpenAICore
from aios_core.errors import ContextOverflow
from aios_core.messages import (
    Completion,
    FinishReason,
    ResponseFormat,
    Sampling,
    ToolSpec,
    Usage,
    parse_messages,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract, Rig
from models.tiny.tokenizer import CONTROL

from .conftest import VLLMServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

# vLLM: continue to the token limit, and generate no control tokens, which have no text. They
# are the first of the tokenizer.
NO_CONTROL = dict.fromkeys(map(str, range(len(CONTROL))), -100)
CALCULATOR = ToolSpec(
    "calculator",
    "do math",
    {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
)


def ask(text: str = "what is 12 plus 5?", **fields: Any) -> LLMGenerate:
    return LLMGenerate(parse_messages(text), **fields)


def ask_long(num_tokens: int, **sampling: Any) -> LLMGenerate:
    settings = {"temperature": 0.0, "logit_bias": NO_CONTROL, **sampling}
    return ask(sampling=Sampling(max_tokens=num_tokens, **settings), extra={"ignore_eos": True})


@pytest.fixture
async def rig(vllm: VLLMServer) -> AsyncIterator[Rig]:
    rig = Rig(OpenAICore(vllm.base_url, ["tiny"], slots=8), timeout_s=60.0)
    await rig.core.start(rig.sink)
    yield rig
    await rig.core.close()
    await rig.settle()
    rig.check()


async def generated(vllm: VLLMServer) -> float:
    """Tokens that the server has generated since it started."""
    return await asyncio.to_thread(vllm.metric, "vllm:generation_tokens_total")


async def the_server_lets_go(vllm: VLLMServer) -> None:
    """Ask until nothing runs there; vLLM counts once a step."""
    async with asyncio.timeout(30):
        while await asyncio.to_thread(vllm.metric, "vllm:num_requests_running"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


class TestContract(CoreContract):
    timeout_s = 60.0
    tool_name = "calculator"

    @pytest.fixture(autouse=True)
    def _server(self, vllm: VLLMServer) -> None:
        self.base_url = vllm.base_url

    def make_core(self) -> Core:
        return OpenAICore(self.base_url, ["tiny"], slots=8)

    def request(self, max_tokens: int | None = 24) -> LLMGenerate:
        return ask_long(max_tokens or 24)

    def tool_request(self) -> LLMGenerate:
        return ask(tools=(CALCULATOR,))


async def test_the_server_is_recognised(rig: Rig) -> None:
    capabilities = rig.core.capabilities

    assert capabilities.preemptible
    assert capabilities.context_window == 1_024


async def test_a_tool_is_called_and_its_result_is_read(rig: Rig) -> None:
    question = ask(tools=(CALCULATOR,))
    call = await rig.generate(question)
    assert call.finish_reason is FinishReason.TOOL_CALLS
    assert call.tool_calls[0].parsed_arguments() == {"expression": "12 + 5"}

    result = {"role": "tool", "content": "17", "tool_call_id": call.tool_calls[0].id}
    dialogue = (*question.messages, call.message, *parse_messages([result]))
    answer = await rig.generate(replace(question, messages=dialogue))
    assert "17" in answer.text


async def test_an_answer_keeps_to_its_schema(rig: Rig) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    sampling = Sampling(max_tokens=60)
    answer = await rig.generate(ask(sampling=sampling, response_format=ResponseFormat(schema)))

    assert answer.text.startswith('{"sum"')  # which this model never generates on its own


async def test_usage_is_exact_and_prefixes_are_cached(rig: Rig) -> None:
    first = await rig.generate(ask_long(20))
    again = await rig.generate(ask_long(20))

    assert first.usage.output_tokens == again.usage.output_tokens == 20
    assert 0 < first.usage.input_tokens < (await rig.prepare(ask_long(20))).num_tokens


async def left_early(rig: Rig, vllm: VLLMServer, leave: Callable[[int], object]) -> Report:
    """Return the end of a long run that is cancelled after three tokens, before the server is done.

    It takes a moment to notice, in which a model this small may have finished: then try again.
    """
    for _ in range(8):
        before = await generated(vllm)
        run = await rig.run(ask_long(900))
        await rig.tokens(run, 3)
        leave(run)
        end = await rig.end(run)
        await the_server_lets_go(vllm)
        if await generated(vllm) - before < 900:
            return end
    raise AssertionError("the server said everything, eight times")


async def test_a_cancelled_call_frees_its_slot_in_the_server(rig: Rig, vllm: VLLMServer) -> None:
    assert isinstance(await left_early(rig, vllm, rig.core.cancel), Stopped)


async def interrupted(rig: Rig, request: LLMGenerate, every: int) -> tuple[Completion, int, int]:
    """Generate with a preemption every few tokens: the answer, the preemptions, the run."""
    prepared = await rig.prepare(request)
    run_id, num_preemptions = rig.begin(request, prepared), 0
    while True:
        await rig.tokens(run_id, rig.num_tokens(run_id) + every)
        rig.core.preempt(run_id)
        end = await rig.end(run_id)
        if not isinstance(end, Preempted):
            assert not isinstance(end, Failed | Stopped), end
            return end.completion, num_preemptions, run_id
        num_preemptions += 1
        rig.go(Run(run_id, 1, request, prepared, snapshot=end.snapshot))


async def test_a_greedy_answer_is_the_same_with_and_without_interruptions(rig: Rig) -> None:
    request = ask_long(600)
    uninterrupted = await rig.generate(request)
    resumed, num_preemptions, run = await interrupted(rig, request, every=15)

    assert num_preemptions >= 2
    assert resumed.text == uninterrupted.text
    assert resumed.usage.output_tokens == rig.num_tokens(run) == 600
    assert resumed.usage.input_tokens == uninterrupted.usage.input_tokens


async def test_where_tools_may_be_called_an_answer_goes_on_after_its_text(rig: Rig) -> None:
    question = ask(tools=(CALCULATOR,))
    call = await rig.generate(question)
    result = {"role": "tool", "content": "17", "tool_call_id": call.tool_calls[0].id}
    dialogue = (*question.messages, call.message, *parse_messages([result]))
    request = replace(question, messages=dialogue)
    run = await rig.run(request)
    uninterrupted = await rig.answer(run)
    words = [progress.delta.text for progress in rig.progress(run)]

    for cut in range(1, len(words) - 1):
        said = Snapshot("tiny", (1,), tuple(range(cut)), text="".join(words[:cut]))
        resumed = await rig.answer(await rig.run(request, snapshot=said))
        assert (resumed.text, cut) == (uninterrupted.text, cut)


async def test_an_interrupted_run_leaves_the_server(rig: Rig, vllm: VLLMServer) -> None:
    assert isinstance(await left_early(rig, vllm, rig.core.preempt), Preempted)


async def test_priorities_are_accepted(rig: Rig) -> None:
    runs = [await rig.run(ask_long(10), priority=priority) for priority in (-5, 0, 7)]

    assert {(await rig.answer(run)).usage.output_tokens for run in runs} == {10}


async def test_the_servers_memory_is_seen(rig: Rig) -> None:
    run = await rig.run(ask_long(900))
    while not rig.core.load().kv_capacity:
        await rig.tokens(run, rig.num_tokens(run) + 1)
    load = rig.core.load()
    rig.core.cancel(run)
    await rig.end(run)

    assert load.kv_capacity is not None
    assert 0 <= load.kv_tokens <= load.kv_capacity


async def test_a_prompt_that_is_too_long_is_refused_with_its_size(rig: Rig) -> None:
    end = await rig.end(await rig.run(ask("word " * 2_000)))

    assert isinstance(end, Failed)
    assert isinstance(end.error, ContextOverflow)
    assert end.error.context_window == 1_024
    assert end.usage == Usage()


@pytest.mark.parametrize("tools", [(), (CALCULATOR,)], ids=["text", "tools"])
async def test_a_prompt_is_counted_as_the_server_counts_it(
    tools: tuple[ToolSpec, ...], rig: Rig
) -> None:
    request = ask("Zürich, please: what is 12 plus 5?", tools=tools)

    counted = await count_prompt(rig.core, request)
    answer = await rig.answer(await rig.run(request))

    assert counted == answer.usage.input_tokens
