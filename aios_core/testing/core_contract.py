"""Test any core against the contract of `aios_core.core`.

Subclass `CoreContract` and override `make_core` (pytest with pytest-asyncio, mode "auto"):

    class TestMyCore(CoreContract):
        def make_core(self) -> Core:
            return MyCore(...)

Tests of abilities that a core does not claim (`capabilities`) are skipped, with that as the
reason. `Rig` is the harness: a started core and all its reports.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from aios_core.core import (
    Core,
    Failed,
    Finished,
    Preempted,
    Run,
    Stopped,
)
from aios_core.cores.deltas import assemble
from aios_core.errors import ContextOverflow, InvalidRequest, KernelError
from aios_core.messages import (
    Completion,
    FinishReason,
    Sampling,
    ToolSpec,
    parse_messages,
)
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_rig import Rig


class CoreContract:
    """The contract's tests. Override `make_core`, and the requests where others fit better."""

    timeout_s = 10.0
    tool_name = "add"
    can_restart = True  # `start` works again after `close`

    def make_core(self) -> Core:
        """A core that is not started."""
        raise NotImplementedError

    def request(self, max_tokens: int | None = 24) -> LLMGenerate:
        """A greedy request with an answer of at least 8 tokens that takes some time."""
        messages = parse_messages("Write a long story of many words.")
        return LLMGenerate(messages, sampling=Sampling(max_tokens=max_tokens))

    def tool_request(self) -> LLMGenerate | None:
        """A request that is answered by a call of `tool_name`; None if the model cannot."""
        return None

    # --- harness ------------------------------------------------------------------------------

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        """A started core; afterwards it is closed, and nothing of it is left."""
        async with self.rigged() as rig:
            yield rig

    @asynccontextmanager
    async def rigged(self) -> AsyncIterator[Rig]:
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
        rig = Rig(self.make_core(), self.timeout_s)
        try:
            await rig.core.start(rig.sink)
            yield rig
        finally:
            await rig.core.close()
            await rig.settle()
        rig.check()
        left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        assert not left, f"close left tasks: {left}"
        assert not {t for t in threading.enumerate() if t.is_alive()} - threads - _pools(), (
            "close left threads"
        )

    def needs(self, rig: Rig, capability: str) -> None:
        if not getattr(rig.core.capabilities, capability):
            pytest.skip(f"{rig.core.name} does not claim: {capability}")

    # --- its own description ------------------------------------------------------------------

    async def test_says_who_it_is(self, rig: Rig) -> None:
        assert rig.core.name
        assert rig.core.models
        assert rig.core.capabilities.context_window > 0

    async def test_is_idle_once_started(self, rig: Rig) -> None:
        load = rig.core.load()

        assert load.slots >= 1
        assert (load.num_running, load.is_up, load.available_in_s) == (0, True, 0)

    async def test_claims_exact_resume_only_with_preemption(self, rig: Rig) -> None:
        capabilities = rig.core.capabilities

        assert capabilities.preemptible or not capabilities.exact_resume

    async def test_prepare_bounds_prompt_and_answer(self, rig: Rig) -> None:
        prepared = await rig.prepare(self.request(max_tokens=5))

        assert prepared.num_tokens > 0
        assert 1 <= prepared.max_tokens <= 5

    async def test_a_prompt_beyond_the_window_is_refused(self, rig: Rig) -> None:
        words = "word " * (rig.core.capabilities.context_window + 1)
        request = replace(self.request(), messages=parse_messages(words))

        error = await _refusal(rig, request)

        assert isinstance(error, ContextOverflow), error

    async def test_tools_are_refused_where_they_cannot_be_offered(self, rig: Rig) -> None:
        if rig.core.capabilities.tools:
            pytest.skip("this core offers tools")

        error = await _refusal(rig, replace(self.request(), tools=(ToolSpec("add"),)))

        assert isinstance(error, InvalidRequest)

    # --- answers ------------------------------------------------------------------------------

    async def test_an_answer_is_its_deltas_joined(self, rig: Rig) -> None:
        run = await rig.run(self.request())
        completion = await rig.answer(run)

        said = assemble(progress.delta for progress in rig.progress(run))
        assert completion.text == said.text
        assert completion.text
        assert completion.message.role == "assistant"

    async def test_nothing_follows_the_end_of_a_run(self, rig: Rig) -> None:
        run = await rig.run(self.request())
        await rig.end(run)
        rig.core.cancel(run)
        rig.core.preempt(run)
        await rig.generate(self.request())  # time for a late report

        assert len(rig.finals(run)) == 1
        assert isinstance(rig.reports[run][-1], Finished)

    async def test_usage_is_what_was_prepared_and_reported(self, rig: Rig) -> None:
        request = self.request()
        prepared = await rig.prepare(request)
        run = rig.begin(request, prepared)
        usage = (await rig.answer(run)).usage

        assert usage.output_tokens > 0
        assert rig.num_tokens(run) <= usage.output_tokens
        if prepared.is_exact:
            assert usage.input_tokens == prepared.num_tokens
        else:
            assert 0 < usage.input_tokens <= prepared.num_tokens

    async def test_an_answer_ends_at_its_token_limit(self, rig: Rig) -> None:
        completion = await rig.generate(self.request(max_tokens=3))

        assert completion.finish_reason is FinishReason.LENGTH
        assert completion.usage.output_tokens == 3

    async def test_the_same_greedy_request_has_the_same_answer(self, rig: Rig) -> None:
        first = await rig.generate(self.request())
        second = await rig.generate(self.request())

        assert first.text == second.text

    async def test_a_run_that_nobody_watches_is_answered_all_the_same(self, rig: Rig) -> None:
        watched = await rig.generate(self.request())
        unwatched = await rig.answer(await rig.run(self.request(), wants_deltas=False))

        assert unwatched.text == watched.text

    async def test_a_tool_call_comes_out_whole(self, rig: Rig) -> None:
        self.needs(rig, "tools")
        if (request := self.tool_request()) is None:
            pytest.skip("this model calls no tools")
        run = await rig.run(request)
        completion = await rig.answer(run)

        assert completion.finish_reason is FinishReason.TOOL_CALLS
        assert [call.name for call in completion.tool_calls] == [self.tool_name]
        assert completion.tool_calls[0].parsed_arguments()
        assert completion.tool_calls[0].id
        said = assemble(progress.delta for progress in rig.progress(run))
        assert said.tool_calls == completion.tool_calls

    # --- several at once ----------------------------------------------------------------------

    async def test_runs_up_to_its_slots_at_once(self, rig: Rig) -> None:
        alone = await rig.generate(self.request())
        runs = [await rig.run(self.request()) for _ in range(min(rig.core.load().slots, 4))]

        answers = [await rig.answer(run) for run in runs]

        assert {answer.text for answer in answers} == {alone.text}
        assert rig.core.load().num_running == 0

    async def test_counts_what_runs(self, rig: Rig) -> None:
        runs = [await rig.run(self.request()) for _ in range(min(rig.core.load().slots, 2))]
        at_once = rig.core.load().num_running
        ended = sum(len(rig.finals(run)) for run in runs)
        for run in runs:
            await rig.end(run)

        assert at_once in {0, len(runs)} or ended  # a core may answer inside `run`
        assert rig.core.load().num_running == 0

    async def test_a_cancelled_run_leaves_the_others_alone(self, rig: Rig) -> None:
        alone = await rig.generate(self.request())
        if rig.core.load().slots < 2:
            pytest.skip("one slot")
        dropped, kept = await rig.run(self.request()), await rig.run(self.request())
        await rig.tokens(dropped)
        rig.core.cancel(dropped)

        assert (await rig.answer(kept)).text == alone.text
        assert isinstance(await rig.end(dropped), Stopped | Finished)

    # --- cancel -------------------------------------------------------------------------------

    async def test_a_run_cancelled_at_once_stops(self, rig: Rig) -> None:
        run = await rig.run(self.request())
        rig.core.cancel(run)

        assert isinstance(await rig.end(run), Stopped | Finished)
        assert rig.core.load().num_running == 0

    async def test_a_run_cancelled_midway_stops(self, rig: Rig) -> None:
        run = await rig.run(self.request())
        await rig.tokens(run)
        rig.core.cancel(run)
        rig.core.cancel(run)  # twice is as good as once
        end = await rig.end(run)

        assert isinstance(end, Stopped | Finished)
        if isinstance(end, Stopped):
            assert end.usage.output_tokens >= rig.num_tokens(run)

    async def test_a_run_cancelled_while_it_is_preempted_ends_once(self, rig: Rig) -> None:
        run = await rig.run(self.request())
        await rig.tokens(run)
        rig.core.preempt(run)
        rig.core.cancel(run)

        await rig.end(run)
        await rig.generate(self.request())  # time for a second end, which `check` would see

        assert len(rig.finals(run)) == 1

    async def test_unknown_runs_are_ignored(self, rig: Rig) -> None:
        rig.core.cancel(4_711)
        rig.core.preempt(4_711)

        assert (await rig.generate(self.request())).text
        assert 4_711 not in rig.reports

    # --- preempt and resume -------------------------------------------------------------------

    async def test_preemption_is_ignored_where_it_is_not_claimed(self, rig: Rig) -> None:
        if rig.core.capabilities.preemptible:
            pytest.skip("this core is preemptible")
        run = await rig.run(self.request())
        rig.core.preempt(run)

        assert (await rig.answer(run)).text

    async def test_a_preempted_run_hands_back_a_snapshot_of_what_it_said(self, rig: Rig) -> None:
        self.needs(rig, "preemptible")
        run = await rig.run(self.request())
        await rig.tokens(run, 2)
        rig.core.preempt(run)
        end = await rig.end(run)

        assert isinstance(end, Preempted), end
        assert rig.core.load().num_running == 0
        _release(end.snapshot)

    @pytest.mark.parametrize("with_kv", [True, False], ids=["as it is", "text only"])
    async def test_a_resumed_run_says_what_it_would_have_said(
        self, rig: Rig, *, with_kv: bool
    ) -> None:
        self.needs(rig, "exact_resume")
        uninterrupted = await rig.generate(self.request())
        resumed, num_interruptions, run = await _interrupted(rig, self.request(), with_kv=with_kv)

        assert num_interruptions >= 1
        assert resumed.text == uninterrupted.text
        assert resumed.finish_reason == uninterrupted.finish_reason
        assert resumed.usage.output_tokens == uninterrupted.usage.output_tokens
        said = assemble(progress.delta for progress in rig.progress(run))
        assert said.text == uninterrupted.text

    async def test_a_run_preempted_before_its_first_token_starts_over(self, rig: Rig) -> None:
        self.needs(rig, "preemptible")
        uninterrupted = await rig.generate(self.request())
        request = self.request()
        prepared = await rig.prepare(request)
        run = rig.begin(request, prepared)
        rig.core.preempt(run)
        end = await rig.end(run)
        if isinstance(end, Preempted):
            rig.go(Run(run, 1, request, prepared, snapshot=end.snapshot))
        completion = await rig.answer(run)

        if rig.core.capabilities.exact_resume:
            assert completion.text == uninterrupted.text

    async def test_a_snapshot_outlives_the_core(self, rig: Rig) -> None:
        self.needs(rig, "exact_resume")
        uninterrupted = await rig.generate(self.request())
        request = self.request()
        run = await rig.run(request)
        await rig.tokens(run, 2)
        rig.core.preempt(run)
        end = await rig.end(run)
        assert isinstance(end, Preempted)
        kept = Snapshot.decode(end.snapshot.encode())
        _release(end.snapshot)

        async with self.rigged() as other:
            completion = await other.answer(await other.run(request, snapshot=kept))

        assert completion.text == uninterrupted.text

    # --- close --------------------------------------------------------------------------------

    async def test_close_ends_what_runs_and_may_be_repeated(self, rig: Rig) -> None:
        runs = [await rig.run(self.request()) for _ in range(min(rig.core.load().slots, 2))]
        await rig.core.close()
        await rig.core.close()
        await rig.settle()

        assert [len(rig.finals(run)) for run in runs] == [1] * len(runs)
        assert rig.core.load().num_running == 0

    async def test_a_run_after_close_fails(self, rig: Rig) -> None:
        request = self.request()
        prepared = await rig.prepare(request)
        await rig.core.close()
        run = rig.begin(request, prepared)

        assert isinstance(await rig.end(run), Failed)

    async def test_starts_again_after_close(self, rig: Rig) -> None:
        if not self.can_restart:
            pytest.skip("this core starts once")
        before = await rig.generate(self.request())
        await rig.core.close()
        await rig.core.start(rig.sink)

        assert (await rig.generate(self.request())).text == before.text


async def _refusal(rig: Rig, request: LLMGenerate) -> KernelError:
    """The error of a request that cannot be served: from `prepare`, or as the run's end."""
    try:
        prepared = await rig.prepare(request)
    except KernelError as exc:
        return exc
    end = await rig.end(rig.begin(request, prepared))
    assert isinstance(end, Failed), end
    return end.error


async def _interrupted(
    rig: Rig, request: LLMGenerate, *, with_kv: bool, every: int = 2
) -> tuple[Completion, int, int]:
    """Generate with a preemption every few tokens: the answer, how many there were, the run."""
    prepared = await rig.prepare(request)
    run_id, num_interruptions = rig.begin(request, prepared), 0
    while True:
        await rig.tokens(run_id, rig.num_tokens(run_id) + every)
        rig.core.preempt(run_id)
        end = await rig.end(run_id)
        if not isinstance(end, Preempted):
            assert isinstance(end, Finished), end
            return end.completion, num_interruptions, run_id
        num_interruptions += 1
        snapshot = end.snapshot
        if not with_kv:
            _release(snapshot)
            snapshot = snapshot.without_kv()
        rig.go(Run(run_id, 1, request, prepared, snapshot=snapshot))


def _release(snapshot: Snapshot) -> None:
    if snapshot.kv is not None:
        snapshot.kv.release()


def _pools() -> set[threading.Thread]:
    """Threads of asyncio's default executor belong to the loop, not to a core."""
    return {t for t in threading.enumerate() if t.name.startswith("asyncio_")}
