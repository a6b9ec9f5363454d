"""Tool calls and grammars of the transformers core."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from aios_core.cores.deltas import assemble
from aios_core.messages import FinishReason, Message, ResponseFormat, Sampling
from aios_core.snapshot import Snapshot
from aios_core.testing.core_contract import Rig

from .rig import CALCULATOR, CLOCK, SCHEMA, ask, preempted, resume

# --- tools ----------------------------------------------------------------------------------------


async def test_a_tool_call_has_its_arguments_as_the_model_wrote_them(tiny: Rig) -> None:
    run = await tiny.run(ask("what is 12 plus 5?", tools=(CALCULATOR, CLOCK)))
    completion = await tiny.answer(run)
    (call,) = completion.tool_calls

    assert (call.name, call.arguments) == ("calculator", '{"expression": "12 + 5"}')
    assert completion.finish_reason is FinishReason.TOOL_CALLS
    assert completion.text == ""
    assert assemble(p.delta for p in tiny.progress(run)).tool_calls == completion.tool_calls


async def test_a_tool_result_is_read(tiny: Rig) -> None:
    asked = ask("what is 12 plus 5?", tools=(CALCULATOR,))
    call = (await tiny.generate(asked)).message
    result = Message("tool", "17", tool_call_id=call.tool_calls[0].id)
    completion = await tiny.generate(replace(asked, messages=(*asked.messages, call, result)))

    assert completion.text == "The result is 17."


async def test_a_resumed_answer_has_the_same_tool_call_id(tiny: Rig) -> None:
    request = ask("what is 12 plus 5?", tools=(CALCULATOR,))
    uninterrupted = await tiny.generate(request)
    run, snapshot = await preempted(tiny, request)
    end = await resume(tiny, run, request, snapshot)

    assert end.completion.tool_calls == uninterrupted.tool_calls


@pytest.mark.parametrize("choice", ["required", "clock"])
async def test_a_forced_call_is_made_by_a_model_that_knows_no_tools(
    babbler: Rig, choice: str
) -> None:
    tools = (CLOCK,) if choice == "required" else (CALCULATOR, CLOCK)
    sampling = Sampling(max_tokens=60, temperature=1.0, seed=1)
    completion = await babbler.generate(
        ask("hello", tools=tools, tool_choice=choice, parallel_tool_calls=False, sampling=sampling)
    )

    assert [(c.name, c.arguments) for c in completion.tool_calls] == [("clock", "{}")]
    assert completion.finish_reason is FinishReason.TOOL_CALLS


async def test_forced_arguments_fit_their_schema(tiny: Rig) -> None:
    completion = await tiny.generate(
        ask("hello", tools=(CALCULATOR, CLOCK), tool_choice="calculator")
    )

    assert set(completion.tool_calls[0].parsed_arguments()) == {"expression"}


async def test_without_parallel_calls_the_first_call_ends_the_answer(babbler: Rig) -> None:
    for seed in range(20):
        sampling = Sampling(max_tokens=120, temperature=1.0, seed=seed)
        request = ask("hello", tools=(CLOCK,), tool_choice="required", sampling=sampling)
        many = await babbler.generate(request)
        if len(many.tool_calls) > 1:
            break
    one = await babbler.generate(replace(request, parallel_tool_calls=False))

    assert len(many.tool_calls) > 1
    assert one.tool_calls == many.tool_calls[:1]


async def test_a_choice_of_none_hides_the_tools(tiny: Rig) -> None:
    completion = await tiny.generate(
        ask("what is 12 plus 5?", tools=(CALCULATOR,), tool_choice="none")
    )

    assert not completion.tool_calls


# --- grammars -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_constrained_answer_fits_its_schema(babbler: Rig, seed: int) -> None:
    completion = await babbler.generate(
        ask(
            "hello",
            response_format=ResponseFormat(SCHEMA),
            sampling=Sampling(max_tokens=120, temperature=1.0, seed=seed),
        )
    )

    jsonschema.validate(json.loads(completion.text), SCHEMA)
    assert completion.finish_reason is FinishReason.STOP


async def test_a_constrained_answer_resumes_within_its_grammar(babbler: Rig) -> None:
    request = ask(
        "hello",
        response_format=ResponseFormat(SCHEMA),
        sampling=Sampling(max_tokens=120, temperature=1.0, seed=4),
    )
    uninterrupted = await babbler.generate(request)
    run, snapshot = await preempted(babbler, request)
    end = await resume(babbler, run, request, Snapshot.decode(snapshot.encode()))

    assert end.completion.text == uninterrupted.text


async def test_any_json_object_will_do_without_a_schema(tiny: Rig) -> None:
    completion = await tiny.generate(ask("hello", response_format=ResponseFormat(), max_tokens=400))

    if completion.finish_reason is FinishReason.STOP:
        assert isinstance(json.loads(completion.text), dict)
    assert completion.text.startswith("{")
