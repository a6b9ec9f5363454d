"""The transformers core: text, refused requests and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aios_core.core import CoreDown, Failed, Finished, Run, Stopped, can_continue
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
from aios_core.messages import FinishReason, ResponseFormat, Sampling, ToolSpec
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig

from .rig import CALCULATOR, CLOCK, HI, SCHEMA, Folders, ask, preempted, resume, started

WHO = ask("who are you?", tools=(CALCULATOR,))


# --- text -----------------------------------------------------------------------------------------


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


# --- requests that cannot be served ---------------------------------------------------------------


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


# --- bad days -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_tokens=30), Sampling(max_tokens=30, temperature=1.0, seed=5)],
    ids=["greedy", "seeded"],
)
async def test_when_the_loop_dies_between_two_tokens_a_run_goes_on_with_the_same_text(
    babbler: Rig, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    request = ask("hello", sampling=sampling)
    whole = (await babbler.generate(request)).text
    step, num_steps = PackedEngine.step, 0

    def die_after_choosing(engine: PackedEngine, sequences: Any) -> Any:
        nonlocal num_steps
        num_steps += 1
        result = step(engine, sequences)
        if num_steps > 9:
            raise ZeroDivisionError("a bug")
        return result

    prepared = await babbler.prepare(request)
    with monkeypatch.context() as patched:
        patched.setattr(PackedEngine, "step", die_after_choosing)
        run_id = babbler.begin(request, prepared)
        end = await babbler.end(run_id)
        await babbler.until(lambda: babbler.general, "CoreDown")
    assert isinstance(end, Failed)
    assert end.snapshot is not None
    assert len(end.snapshot.output_ids) == babbler.num_tokens(run_id)

    await babbler.core.start(babbler.sink)
    assert can_continue(babbler.core, end.snapshot)
    babbler.go(Run(run_id, 1, request, prepared, snapshot=end.snapshot))
    assert (await babbler.answer(run_id)).text == whole
    assert assemble(p.delta for p in babbler.progress(run_id)).text == whole
