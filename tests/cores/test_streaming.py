"""`StreamingCore`: what it makes of generators that behave, and of those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from aios_core.core import (
    Capabilities,
    Core,
    CoreDown,
    Failed,
    Finished,
    Preempted,
    Prepared,
    Progress,
    Run,
    Stopped,
)
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.errors import ContextOverflow, CoreError, KernelBug
from aios_core.messages import Delta, FinishReason, Usage, parse_messages
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract, Rig

WORDS = [f"word{n} " for n in range(20)]


class Talker(StreamingCore):
    """A core that writes twenty words, resumes after its text, and obeys its prompt."""

    def __init__(self) -> None:
        super().__init__("talker", ["talker"], slots=4)
        self.has_let_go = False

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(context_window=1_000, preemptible=True, exact_resume=True)

    def prepare(self, request: LLMGenerate) -> Prepared:
        num_tokens = len(request.messages[-1].content.split())
        if num_tokens >= 1_000:
            raise ContextOverflow(num_tokens, 1_000, "talker")
        return Prepared(num_tokens, request.sampling.max_tokens or 100)

    def snapshot(self, live: LiveRun) -> Snapshot:
        return Snapshot("talker", output_ids=tuple(range(live.num_tokens)), text=live.answer.text)

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        prompt, limit = live.run.request.messages[-1].content, live.run.prepared.max_tokens
        try:
            for word in WORDS[live.num_tokens : limit]:
                await asyncio.sleep(0.001)
                yield Delta(word)
                if prompt == "raise":
                    raise ValueError("a foreign error")
                if prompt == "break off":
                    return
        finally:
            await asyncio.sleep(0)  # letting go takes its time
            self.has_let_go = True
        reason = FinishReason.LENGTH if limit < len(WORDS) else FinishReason.STOP
        usage = Usage(live.run.prepared.num_tokens, live.num_tokens)
        yield live.answer.completion(reason, usage, "talker")


class TestContract(CoreContract):
    def make_core(self) -> Core:
        return Talker()


@pytest.fixture
async def rig() -> Rig:
    rig = Rig(Talker())
    await rig.core.start(rig.sink)
    return rig


def ask(text: str) -> LLMGenerate:
    return LLMGenerate(parse_messages(text))


async def test_a_foreign_error_becomes_a_core_error_with_its_cause(rig: Rig) -> None:
    end = await rig.end(await rig.run(ask("raise")))

    assert isinstance(end, Failed)
    assert isinstance(end.error, CoreError)
    assert isinstance(end.error.__cause__, ValueError)
    assert not end.error.is_retryable  # a word had been streamed
    assert end.usage == Usage(1, 1, is_estimated=True)


async def test_an_answer_that_breaks_off_is_an_error(rig: Rig) -> None:
    end = await rig.end(await rig.run(ask("break off")))

    assert isinstance(end, Failed)
    assert "broke off" in str(end.error)


async def test_a_run_is_stopped_when_its_generator_has_let_go(rig: Rig) -> None:
    assert isinstance(rig.core, Talker)
    run = await rig.run(ask("talk"))
    await rig.tokens(run)
    rig.core.cancel(run)
    assert not rig.core.has_let_go

    assert isinstance(await rig.end(run), Stopped)
    assert rig.core.has_let_go


async def test_cancel_outdoes_preempt_and_preempt_does_not_outdo_cancel(rig: Rig) -> None:
    first, second = await rig.run(ask("talk")), await rig.run(ask("talk"))
    await rig.tokens(first)
    await rig.tokens(second)
    rig.core.preempt(first)
    rig.core.cancel(first)
    rig.core.cancel(second)
    rig.core.preempt(second)

    assert isinstance(await rig.end(first), Stopped)
    assert isinstance(await rig.end(second), Stopped)


async def test_an_answer_that_came_before_the_preemption_took_hold_counts(rig: Rig) -> None:
    run = await rig.run(ask("talk"))
    await rig.tokens(run, len(WORDS))
    rig.core.preempt(run)

    assert isinstance(await rig.end(run), Finished | Preempted)


async def test_a_core_that_goes_down_fails_its_runs_first(rig: Rig) -> None:
    assert isinstance(rig.core, Talker)
    order: list[type] = []
    await rig.core.start(lambda reports: order.extend(map(type, reports)))
    for number in (1, 2):
        rig.core.run(Run(number, 1, ask("talk"), Prepared(1, 100)))
    rig.core.report_down("for the test")
    rig.core.report_down("twice")
    await rig.core.close()

    assert [kind for kind in order if kind is not Progress] == [Failed, Failed, CoreDown]
    assert not rig.core.load().is_up


async def test_a_core_without_runs_goes_down_at_once(rig: Rig) -> None:
    assert isinstance(rig.core, Talker)
    rig.core.report_down("for the test")
    await rig.settle()

    assert [type(report) for report in rig.general] == [CoreDown]


async def test_a_run_on_a_core_that_was_never_started_is_a_bug() -> None:
    with pytest.raises(KernelBug):
        Talker().run(Run(1, 1, ask("talk"), Prepared(1, 100)))
