"""The in-process core beyond the contract: words, tools, grammars, contexts, failures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from aios_core.core import CoreDown, Failed, Finished, Preempted, Run, Stopped
from aios_core.cores.deltas import assemble
from aios_core.cores.transformers import TransformersCore
from aios_core.cores.transformers.engine import PackedEngine
from aios_core.cores.transformers.kv import DeviceKV, KVSequenceImage
from aios_core.errors import (
    ContextOverflow,
    CoreError,
    InvalidRequest,
    ModelLoadError,
    OutOfMemory,
    SnapshotError,
)
from aios_core.messages import FinishReason, Message, ResponseFormat, Sampling, ToolSpec
from aios_core.snapshot import Snapshot, Tier
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig

from .conftest import TINY

CALCULATOR = ToolSpec(
    "calculator",
    "do math",
    {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
)
CLOCK = ToolSpec("clock", "current time", {"type": "object", "properties": {}})
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["town", "village"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 9999},
    },
    "required": ["city", "kind", "people"],
    "additionalProperties": False,
}

Folders = Callable[..., Path]


def ask(text: str, *, max_tokens: int = 40, **fields: Any) -> LLMGenerate:
    sampling = fields.pop("sampling", Sampling(max_tokens=max_tokens))
    return LLMGenerate((Message("user", text),), sampling=sampling, **fields)


# Small talk; `tiny` knows it only in the company of tools.
HI = ask("hi", tools=(CALCULATOR,))
WHO = ask("who are you?", tools=(CALCULATOR,))


@asynccontextmanager
async def started(model: Path = TINY, **options: Any) -> AsyncIterator[Rig]:
    """A started core, which is closed at the end."""
    rig = Rig(TransformersCore(model, num_threads=1, **options))
    await rig.core.start(rig.sink)
    try:
        yield rig
    finally:
        await rig.core.close()
        await rig.settle()


@pytest.fixture
async def tiny() -> AsyncIterator[Rig]:
    async with started() as rig:
        yield rig


@pytest.fixture
async def babbler(model_folder: Folders) -> AsyncIterator[Rig]:
    """A model that writes fixed tokens, invalid UTF-8 included."""
    async with started(model_folder("llama")) as rig:
        yield rig


async def preempted(rig: Rig, request: LLMGenerate, after: int = 5) -> tuple[int, Snapshot]:
    """Begin a run and stop it after some tokens."""
    run = await rig.run(request)
    await rig.tokens(run, after)
    rig.core.preempt(run)
    end = await rig.end(run)
    assert isinstance(end, Preempted), end
    return run, end.snapshot


async def resume(rig: Rig, run: int, request: LLMGenerate, snapshot: Snapshot) -> Any:
    prepared = await rig.prepare(request)
    rig.go(Run(run, 1, request, prepared, snapshot=snapshot))
    return await rig.end(run)


# --- text -------------------------------------------------------------------------------------


async def test_an_answer_ends_before_a_stop_string(tiny: Rig) -> None:
    whole = (await tiny.generate(WHO)).text
    stop = whole[8:12]
    run = await tiny.run(replace(WHO, sampling=Sampling(max_tokens=40, stop=("never said", stop))))
    completion = await tiny.answer(run)

    assert completion.text == whole[: whole.index(stop)]
    assert completion.finish_reason is FinishReason.STOP
    assert assemble(p.delta for p in tiny.progress(run)).text == completion.text


async def test_streamed_text_is_the_final_text_whatever_the_tokens(babbler: Rig) -> None:
    sampling = Sampling(max_tokens=60, temperature=1.0, seed=5)
    run = await babbler.run(ask("hello", sampling=sampling))
    completion = await babbler.answer(run)

    assert assemble(p.delta for p in babbler.progress(run)).text == completion.text
    assert not completion.text.endswith("\ufffd")


async def test_control_tokens_are_no_text(tiny: Rig) -> None:
    completion = await tiny.generate(HI)

    assert completion.text == "Hello! How can I help?"
    assert completion.finish_reason is FinishReason.STOP


async def test_the_same_seed_says_the_same_and_another_something_else(babbler: Rig) -> None:
    said = [
        (
            await babbler.generate(
                ask("hello", sampling=Sampling(max_tokens=20, temperature=1.0, seed=seed))
            )
        ).text
        for seed in (1, 1, 2)
    ]

    assert said[0] == said[1] != said[2]


async def test_a_run_without_a_seed_keeps_the_one_that_was_chosen(babbler: Rig) -> None:
    request = ask("hello", sampling=Sampling(max_tokens=20, temperature=1.0))
    run, snapshot = await preempted(babbler, request)
    again = Snapshot.decode(snapshot.encode())
    first = await resume(babbler, run, request, snapshot)
    second = await resume(babbler, run, request, again)

    assert first.completion.text == second.completion.text


# --- tools ------------------------------------------------------------------------------------


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


# --- grammars ---------------------------------------------------------------------------------


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


# --- requests that cannot be served -----------------------------------------------------------


async def test_a_prompt_longer_than_the_window_is_refused_with_both_lengths(tiny: Rig) -> None:
    with pytest.raises(ContextOverflow) as caught:
        await tiny.prepare(ask("word " * 2_000))

    assert caught.value.num_tokens > caught.value.context_window == 1_024


async def test_an_answer_never_outgrows_the_window(tiny: Rig) -> None:
    prepared = await tiny.prepare(ask("one two three", max_tokens=100_000))

    assert prepared.num_tokens + prepared.max_tokens == 1_024


LARGE = {"type": "object", "properties": {"x": {"enum": list(range(100_000))}}}


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (ask("hi", tools=(ToolSpec("odd", "", {"type": "object", "properties": 3}),)), "odd"),
        (ask("hi", tools=(CLOCK,), tool_choice="calculator"), "calculator"),
        (ask("hi", tools=(ToolSpec("big", "", LARGE),)), "'big': its schema is too large"),
        (ask("hi", response_format=ResponseFormat(LARGE)), "response_format: its schema is too"),
        (ask("hi", tool_choice="required"), "required"),
        (ask("hi", response_format=ResponseFormat({"type": "nonsense"})), "nonsense"),
    ],
    ids=[
        "broken tool schema",
        "unknown tool",
        "large tool schema",
        "large answer schema",
        "no tools to require",
        "broken answer schema",
    ],
)
async def test_a_request_that_cannot_be_served_is_refused_by_name(
    tiny: Rig, request_: LLMGenerate, named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        await tiny.prepare(request_)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
async def test_a_folder_that_lacks_a_file_is_refused_by_the_files_name(
    model_folder: Folders, tmp_path: Path, name: str
) -> None:
    for path in model_folder("llama").iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
    core = TransformersCore(tmp_path)

    with pytest.raises(ModelLoadError, match=name):
        await core.start(print)
    await core.close()


# --- contexts ---------------------------------------------------------------------------------


async def test_the_next_call_of_an_agent_computes_only_what_is_new() -> None:
    async with started(keep_contexts=True) as rig:
        asked = ask("what is 12 plus 5?", tools=(CALCULATOR,))
        run = await rig.run(asked)
        call = (await rig.answer(run)).message
        context = rig.finals(run)[0].context
        assert context is not None
        result = Message("tool", "17", tool_call_id=call.tool_calls[0].id)
        more = replace(asked, messages=(*asked.messages, call, result))

        warm = await rig.answer(await rig.run(more, warm=context))
        cold = await rig.generate(more)

    assert warm.text == cold.text == "The result is 17."
    assert warm.usage.cached_tokens == context.num_tokens - 1  # the last token has no KV yet
    assert cold.usage.cached_tokens == 0


async def test_the_same_prompt_again_computes_one_token() -> None:
    async with started(keep_contexts=True) as rig:
        request = HI
        first = await rig.run(request)
        await rig.end(first)
        again = await rig.answer(await rig.run(request, warm=rig.finals(first)[0].context))

    assert again.text == "Hello! How can I help?"
    assert again.usage.cached_tokens == again.usage.input_tokens - 1


async def test_a_context_of_something_else_is_dropped() -> None:
    async with started(keep_contexts=True) as rig:
        first = await rig.run(HI)
        await rig.end(first)
        context = replace(rig.finals(first)[0].context, model="another")
        completion = await rig.answer(await rig.run(HI, warm=context))

        assert completion.usage.cached_tokens == 0
        assert context.kv is not None
        assert context.kv.tier is Tier.HOST  # released
        assert rig.core.load().kv_tokens == rig.finals(2)[0].context.kv.num_tokens


async def test_a_preempted_run_keeps_its_memory_on_the_device_and_it_is_counted(tiny: Rig) -> None:
    _, snapshot = await preempted(tiny, ask("what is 12 plus 5?", tools=(CALCULATOR,)))
    held = tiny.core.load().kv_tokens
    image = snapshot.kv
    assert image is not None
    tier = image.tier
    image.to_host()

    assert tier is Tier.DEVICE
    assert held == image.num_tokens == snapshot.num_tokens - 1
    assert tiny.core.load().kv_tokens == 0


async def test_a_run_goes_on_from_a_file_in_another_core(tiny: Rig, tmp_path: Path) -> None:
    request = ask("what is 12 plus 5?", tools=(CALCULATOR,))
    uninterrupted = await tiny.generate(request)
    run, snapshot = await preempted(tiny, request)
    assert snapshot.kv is not None
    snapshot.kv.copy_to(tmp_path / "kv.safetensors")
    kept = Snapshot.decode(snapshot.encode())
    snapshot.kv.release()

    async with started() as other:
        image = other.core.open_image(tmp_path / "kv.safetensors")
        end = await resume(other, run, request, replace(kept, kv=image))

    assert end.completion.tool_calls == uninterrupted.tool_calls
    assert not (tmp_path / "kv.safetensors").exists()


async def test_a_damaged_image_costs_time_and_not_the_answer(
    tiny: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = ask("what is 12 plus 5?", tools=(CALCULATOR,))
    uninterrupted = await tiny.generate(request)
    run, snapshot = await preempted(tiny, request)
    assert snapshot.kv is not None
    snapshot.kv.to_disk(tmp_path / "kv")
    (tmp_path / "kv").write_bytes(b"no tensors here")

    end = await resume(tiny, run, request, snapshot)

    assert end.completion.tool_calls == uninterrupted.tool_calls
    assert "computed again" in caplog.text


async def test_a_snapshot_of_another_model_is_refused(tiny: Rig) -> None:
    request = HI
    run, snapshot = await preempted(tiny, request, after=2)
    end = await resume(tiny, run, request, replace(snapshot, model="another"))

    assert isinstance(end, Failed)
    assert isinstance(end.error, SnapshotError)
    assert tiny.core.load().kv_tokens == 0


async def test_a_finished_run_holds_no_memory(tiny: Rig) -> None:
    await tiny.generate(HI)

    assert tiny.core.load().kv_tokens == 0


# --- bad days ---------------------------------------------------------------------------------


async def test_when_the_loop_dies_its_runs_fail_and_it_can_be_started_again(
    tiny: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(PackedEngine, "step", die)
        runs = [await tiny.run(HI), await tiny.run(ask("hello"))]
        ends = [await tiny.end(run) for run in runs]
        await tiny.until(lambda: tiny.general, "CoreDown")

    for end in ends:
        assert isinstance(end, Failed)
        assert isinstance(end.error, CoreError)
        assert end.error.is_retryable
    assert [type(report) for report in tiny.general] == [CoreDown]
    assert not tiny.core.load().is_up
    late = await tiny.end(tiny.begin(HI, await tiny.prepare(HI)))
    assert isinstance(late, Failed)

    await tiny.core.start(tiny.sink)
    assert (await tiny.generate(HI)).text == "Hello! How can I help?"


async def test_who_asks_for_too_much_memory_fails_and_the_others_go_on(
    tiny: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = DeviceKV.reserve

    def limited(memory: DeviceKV, num_tokens: int) -> None:
        if num_tokens > 100:
            raise torch.OutOfMemoryError("no more")
        reserve(memory, num_tokens)

    monkeypatch.setattr(DeviceKV, "reserve", limited)
    greedy, modest = await tiny.run(ask("word " * 200)), await tiny.run(HI)
    end = await tiny.end(greedy)

    assert isinstance(end, Failed)
    assert isinstance(end.error, OutOfMemory)
    assert (await tiny.answer(modest)).text == "Hello! How can I help?"
    assert tiny.core.load().kv_tokens == 0


async def test_a_batch_too_large_for_the_device_is_run_in_parts(
    tiny: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = PackedEngine.forward

    def limited(engine: PackedEngine, work: Sequence[Any]) -> torch.Tensor:
        if len(work) > 1:
            raise torch.OutOfMemoryError("too many at once")
        return forward(engine, work)

    monkeypatch.setattr(PackedEngine, "forward", limited)
    runs = [await tiny.run(HI) for _ in range(3)]

    assert {(await tiny.answer(run)).text for run in runs} == {"Hello! How can I help?"}


async def test_a_run_that_waits_for_its_grammar_can_be_cancelled(tiny: Rig) -> None:
    run = await tiny.run(ask("hi", response_format=ResponseFormat(SCHEMA)))
    tiny.core.cancel(run)

    assert isinstance(await tiny.end(run), Stopped | Finished)


async def test_an_architecture_that_cannot_be_packed_says_so_and_works(
    model_folder: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(model_folder("bloom")) as rig:
        capabilities = rig.core.capabilities
        request = ask("hello", max_tokens=100)
        uninterrupted = await rig.generate(request)
        run, snapshot = await preempted(rig, request)
        end = await resume(rig, run, request, snapshot)

    assert "alone" in capabilities.notes[0]
    assert "alone" in caplog.text
    assert not capabilities.kv_snapshots
    assert end.completion.text == uninterrupted.text


async def test_an_image_stays_with_the_core_that_made_it_unless_the_models_are_equal(
    tiny: Rig, model_folder: Folders, tmp_path: Path
) -> None:
    _, snapshot = await preempted(tiny, HI, after=2)
    assert isinstance(snapshot.kv, KVSequenceImage)
    snapshot.kv.to_disk(tmp_path / "kv")

    async with started(model_folder("llama")) as other:
        with pytest.raises(SnapshotError, match="another model"):
            other.core.open_image(tmp_path / "kv")


async def test_a_prompt_that_cannot_fit_is_refused_without_reading_it(tiny: Rig) -> None:
    with pytest.raises(ContextOverflow) as refused:
        await tiny.core.prepare(ask("x" * 5_000_000))

    assert refused.value.num_tokens < 5_000_000, "a bound, not a count"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"], ids=ascii)
async def test_a_lone_surrogate_is_the_callers_mistake(tiny: Rig, text: str) -> None:
    with pytest.raises(InvalidRequest, match="Unicode"):
        await tiny.core.prepare(ask(text))


async def test_a_tool_without_parameters_can_be_offered(tiny: Rig) -> None:
    bare = ToolSpec("clock", "current time", {"type": "object"})

    assert (await tiny.core.prepare(ask("what time is it?", tools=(bare,)))).num_tokens > 0
