"""The OpenAI-compatible core in front of a vLLM server: preemption, priority and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aios_core.core import (
    Failed,
    Preempted,
    Run,
    can_continue,
)
from aios_core.cores.deltas import split_words
from aios_core.errors import (
    SnapshotError,
)
from aios_core.messages import (
    ResponseFormat,
    Sampling,
    Usage,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig
from aios_core.testing.stub_server import Answer, StubServer

from .rig import ADD, CALL, STORY, ask, connected


async def preempted(rig: Rig, request: LLMGenerate, after: int = 3) -> tuple[Run, Snapshot]:
    prepared = await rig.prepare(request)
    run_id = rig.begin(request, prepared)
    await rig.tokens(run_id, after)
    rig.core.preempt(run_id)
    end = await rig.end(run_id)
    assert isinstance(end, Preempted), end
    return Run(run_id, 1, request, prepared), end.snapshot


@pytest.mark.parametrize(
    ("fields", "path"),
    [({}, "/v1/completions"), ({"tools": (ADD,)}, "/v1/chat/completions")],
    ids=["by token ids", "by text, where tools may be called"],
)
async def test_a_preempted_run_leaves_the_server_and_goes_on_where_it_was(
    serve: Callable[..., StubServer], fields: dict[str, Any], path: str
) -> None:
    server = serve(Answer(STORY, token_s=0.005), flavor="vllm")
    async with connected(server) as rig:
        run, snapshot = await preempted(rig, ask(sampling=Sampling(max_tokens=12), **fields))
        await server.until(lambda: server.exchanges[0].was_left, "the client's leaving")
        num_before = rig.num_tokens(run.id)
        rig.go(replace(run, snapshot=snapshot))
        completion = await rig.answer(run.id)

    again = server.exchanges[1]
    assert again.path == path
    assert again.body["max_tokens"] == 12 - num_before
    assert (
        snapshot.text == "".join(STORY.partition(" ")[0:0]) + completion.text[: len(snapshot.text)]
    )
    assert completion.text.split() == STORY.split()[:12]
    assert completion.usage == Usage(2, 12)
    assert rig.num_tokens(run.id) == 12


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": ResponseFormat({"type": "object"})},
        {"sampling": Sampling(temperature=1.0, seed=3)},
        {"tools": (ADD,), "tool_choice": "required"},
    ],
    ids=["constrained", "seeded", "made to call a tool"],
)
async def test_a_run_that_cannot_be_cut_in_two_goes_on(
    serve: Callable[..., StubServer], fields: dict[str, Any]
) -> None:
    server = serve(Answer(STORY, token_s=0.005), flavor="vllm")
    async with connected(server) as rig:
        run = await rig.run(ask(**fields))
        await rig.tokens(run, 2)
        rig.core.preempt(run)

        assert (await rig.answer(run)).text == STORY
    assert len(server.exchanges) == 1


async def test_a_run_that_calls_a_tool_goes_on(serve: Callable[..., StubServer]) -> None:
    slow = Answer("Let me see. ", (CALL,), token_s=0.005)
    async with connected(serve(slow, flavor="vllm")) as rig:
        run = await rig.run(ask(tools=(ADD,)))
        await rig.tokens(run, 4)
        rig.core.preempt(run)

        assert (await rig.answer(run)).tool_calls == (CALL,)


async def test_another_models_text_is_not_gone_on_with(serve: Callable[..., StubServer]) -> None:
    foreign = Snapshot("elsewhere", (1, 2), (1_000,), text="Once ")
    async with connected(serve(flavor="vllm")) as rig:
        run = await rig.run(ask(), snapshot=foreign)
        end = await rig.end(run)

    assert isinstance(end, Failed)
    assert isinstance(end.error, SnapshotError)


@pytest.mark.parametrize("then", ["drop", "cut"])
async def test_a_run_that_breaks_off_hands_over_what_it_has_reported(
    serve: Callable[..., StubServer], then: Any
) -> None:
    server = serve([Answer(STORY, then=then, after=3), Answer(STORY)], flavor="vllm")
    async with connected(server) as rig:
        request = ask(sampling=Sampling(max_tokens=12))
        prepared = await rig.prepare(request)
        run_id = rig.begin(request, prepared)
        end = await rig.end(run_id)
        assert isinstance(end, Failed)
        assert end.snapshot is not None
        assert end.snapshot.text == "".join(split_words(STORY)[:3])
        assert len(end.snapshot.output_ids) == rig.num_tokens(run_id) == 3
        assert can_continue(rig.core, end.snapshot)
        assert not can_continue(rig.core, replace(end.snapshot, model="another"))
        rig.go(Run(run_id, 1, request, prepared, snapshot=end.snapshot))
        completion = await rig.answer(run_id)

    assert completion.text.split() == STORY.split()[:12]
    assert server.exchanges[1].body["max_tokens"] == 9


async def test_a_seeded_run_that_breaks_off_hands_over_nothing(
    serve: Callable[..., StubServer],
) -> None:
    server = serve(Answer(STORY, then="drop", after=3), flavor="vllm")
    async with connected(server) as rig:
        end = await rig.end(await rig.run(ask(sampling=Sampling(temperature=1.0, seed=3))))

    assert isinstance(end, Failed)
    assert end.snapshot is None


async def test_priority_is_passed_on_to_vllm_and_to_nobody_else(
    serve: Callable[..., StubServer],
) -> None:
    urgent, plain = serve(flavor="vllm"), serve()
    for server in (urgent, plain):
        async with connected(server) as rig:
            await rig.end(await rig.run(ask(), priority=-3))

    assert urgent.exchanges[0].body["priority"] == -3
    assert "priority" not in plain.exchanges[0].body


@pytest.mark.parametrize(
    ("version", "has_session"),
    [("0.32.0", True), ("v1.0", True), ("0.31.2", False), ("", False), (7, False), ("new", False)],
)
async def test_a_vllm_that_takes_sessions_learns_which_calls_are_of_one_agent(
    version: Any, has_session: bool, serve: Callable[..., StubServer]
) -> None:
    server = serve(flavor="vllm")
    server.version = version
    async with connected(server) as rig:
        for _ in range(2):
            await rig.end(await rig.run(ask()))

    first, again = (exchange.body.get("session_id") for exchange in server.exchanges)
    assert (first is not None) is has_session
    assert first == again


async def test_agents_and_kernels_have_different_sessions(
    serve: Callable[..., StubServer],
) -> None:
    server = serve(flavor="vllm")
    server.version = "0.32.0"
    for _ in range(2):
        async with connected(server) as rig:
            prepared = await rig.prepare(ask())
            for run_id, pid in ((1, 1), (2, 2)):
                rig.go(Run(run_id, pid, ask(), prepared))
                await rig.end(run_id)

    assert len({exchange.body["session_id"] for exchange in server.exchanges}) == 4


async def test_kv_memory_is_read_from_vllms_metrics(serve: Callable[..., StubServer]) -> None:
    server = serve(Answer("word " * 200, token_s=0.01), flavor="vllm")
    async with connected(server) as rig:
        run = await rig.run(ask())
        while not rig.core.load().kv_capacity:
            await rig.tokens(run, rig.num_tokens(run) + 1)
        load = rig.core.load()
        rig.core.cancel(run)
        await rig.end(run)

    assert (load.kv_tokens, load.kv_capacity) == (400, 1_600)
