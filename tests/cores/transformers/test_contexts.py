"""Warm contexts and snapshots of the transformers core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aios_core.core import Failed
from aios_core.errors import (
    SnapshotError,
)
from aios_core.messages import Message
from aios_core.snapshot import Snapshot, Tier
from aios_core.testing.core_contract import Rig

from .rig import CALCULATOR, HI, ask, preempted, resume, started


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
