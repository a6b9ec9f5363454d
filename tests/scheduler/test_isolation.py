"""A fault of a policy, a caller, an observer or a core concerns one call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from aios_core import (
    CoreError,
    CoreUnavailable,
    KernelBug,
    KernelEvent,
    SchedulingPolicyError,
)
from aios_core.core import CoreDown, CoreLoad, Failed, Finished, Preempted, Progress
from aios_core.messages import Delta
from aios_core.queueing.policy import Rank, WaitingCall
from aios_core.scheduler import FIFO, Policy, QueueLoad
from aios_core.scheduler.overload import QueueLimits
from aios_core.snapshot import Snapshot
from tests.puppet import PuppetCore, settled, virtual

from .rig import Caller, Image, rigged


class Stop(BaseException):
    """Not an `Exception`, and nothing that Python or asyncio knows."""


RAISED = [
    ZeroDivisionError("foreign"),
    asyncio.CancelledError(),
    SystemExit(3),
    GeneratorExit(),
    Stop("foreign"),
]


@dataclass(frozen=True, slots=True)
class Faulty(Policy):
    """FIFO with a quantum, that raises once a question is in `faults`."""

    quantum: int | None = 4
    takes_turns: bool = True
    faults: dict[str, BaseException] = field(default_factory=dict)

    def rank(self, call: WaitingCall) -> Rank:
        self._raise("rank")
        return (call.seq,)

    def interrupts(self, waiting: WaitingCall, running: WaitingCall) -> bool:
        self._raise("interrupts")
        return waiting.seq < running.seq

    def select(self, load: QueueLoad) -> Policy:  # noqa: ARG002
        self._raise("select")
        return self

    def _raise(self, question: str) -> None:
        if question in self.faults:
            raise self.faults[question]


class Unreadable(FIFO):
    """A policy with a computed setting that raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("quantum", "max_wait_s", "takes_turns", "warm_first"):
            raise ZeroDivisionError(name)
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Silence logs of the errors that are raised here on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# --- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", RAISED, ids=repr)
@virtual
async def test_a_rank_that_fails_on_rejoin_fails_that_call_and_no_other(
    fault: BaseException,
) -> None:
    core, policy = PuppetCore(slots=2), Faulty()
    async with rigged(core, policy=policy) as rig:
        first, preempted = rig.submit(rig.agent("a"))
        second, finished = rig.submit(rig.agent("b"))
        policy.faults["rank"] = fault
        core.tell(
            Preempted(first.id, Snapshot("m", output_ids=(1,))),
            Finished(second.id, core.completion(second.id)),
        )
        core.runs.clear()
        await settled()

        assert finished.text == "done"
        assert isinstance(preempted.error, SchedulingPolicyError)
        assert preempted.error.__cause__ is fault
        rig.check()


class Untold:
    """An object with its own `__repr__`, which must not run."""

    def __init__(self) -> None:
        self.num_shown = 0

    def __repr__(self) -> str:
        self.num_shown += 1
        return "untold"


@pytest.mark.parametrize("rank", [Untold, lambda told: (told,)], ids=["alone", "in a tuple"])
@virtual
async def test_a_foreign_object_that_is_no_rank_is_named_without_its_own_code(rank: Any) -> None:
    untold = Untold()

    class Odd(FIFO):
        def rank(self, call: WaitingCall) -> Rank:  # noqa: ARG002
            return untold if rank is Untold else rank(untold)  # type: ignore[no-any-return]

    core = PuppetCore()
    async with rigged(core, policy=Odd()) as rig:
        _, caller = rig.submit(rig.agent())
        await settled()
        core.sink([untold])  # type: ignore[arg-type]
        await settled()

        assert "<Untold>" in str(caller.error)
        assert untold.num_shown == 0


@pytest.mark.parametrize("rank", [None, "first", (1, "x"), (float("nan"),), [1, 2]], ids=repr)
@virtual
async def test_what_is_no_rank_is_refused_and_harms_nobody_in_the_queue(rank: Any) -> None:
    class Odd(FIFO):
        def rank(self, call: WaitingCall) -> Rank:
            return rank if call.priority else super().rank(call)  # type: ignore[no-any-return]

    core = PuppetCore()
    async with rigged(core, policy=Odd()) as rig:
        callers = [rig.submit(rig.agent(), priority=p)[1] for p in (0, 1, 0)]
        for _ in range(2):
            await settled()
            core.finish()
        await settled()

        assert [caller.text for caller in callers] == ["done", None, "done"]
        assert "'Odd': `rank` failed" in str(callers[1].error)


@pytest.mark.parametrize("question", ["interrupts", "select", "rank"])
@pytest.mark.parametrize("fault", RAISED, ids=repr)
@virtual
async def test_a_policy_that_fails_in_any_question_leaves_running_calls_alone(
    question: str, fault: BaseException
) -> None:
    core, policy = PuppetCore(), Faulty()
    async with rigged(core, policy=policy) as rig:
        _, running = rig.submit(rig.agent("a"))
        _, waiting = rig.submit(rig.agent("b"))
        policy.faults[question] = fault
        core.progress(num_tokens=20)
        await asyncio.sleep(1)
        while core.runs:
            core.finish()
            await settled()

        assert running.text == "done"
        assert waiting.text == "done" or isinstance(waiting.error, SchedulingPolicyError)


@virtual
async def test_a_policy_whose_settings_cannot_be_read_serves_without_them() -> None:
    core = PuppetCore()
    async with rigged(core, policy=Unreadable()) as rig:
        callers = [rig.submit(rig.agent())[1] for _ in range(2)]
        core.progress(num_tokens=100)
        await settled()
        core.finish()
        await settled()
        core.finish()
        await settled()

        assert [caller.text for caller in callers] == ["done", "done"]


@virtual
async def test_a_failing_policy_is_logged_once_for_each_question(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.disable(logging.NOTSET)
    policy = Faulty(faults={"rank": ZeroDivisionError("foreign")})
    async with rigged(PuppetCore(), policy=policy) as rig:
        for _ in range(5):
            rig.submit(rig.agent())

        assert [r.name for r in caplog.records] == ["aios_core.queueing.ranked_queue"]


# --- answers --------------------------------------------------------------------------------------


class RudeCaller(Caller):
    """An observer that raises at every event, and records it."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self.fault = fault

    def delta(self, delta: object) -> None:  # noqa: ARG002
        raise self.fault

    def resolve(self, completion: Any) -> None:
        super().resolve(completion)
        raise self.fault

    def reject(self, error: BaseException) -> None:
        super().reject(error)
        raise self.fault


@pytest.mark.parametrize("fault", RAISED, ids=repr)
@virtual
async def test_a_caller_that_raises_what_it_hears_keeps_nothing_from_others(
    fault: BaseException,
) -> None:
    core = PuppetCore(slots=3)
    async with rigged(core) as rig:
        rude = [RudeCaller(fault), RudeCaller(fault)]
        request = rig.submit(rig.agent())[0].request
        for caller in rude:
            rig.dispatcher.submit(rig.agent("rude"), request, caller)
        polite, rude_one, rude_two = tuple(core.runs)
        core.tell(
            *[_progress(run_id) for run_id in (rude_one, rude_two, polite)],
            Finished(rude_one, core.completion(rude_one)),
            _failed(rude_two),
            Finished(polite, core.completion(polite)),
        )
        core.runs.clear()
        await settled()

        assert rig.callers[0].text == "done"
        assert [caller.outcome is None for caller in rude] == [False, False]
        assert not rig.agent("rude").live_calls


def _progress(run_id: int) -> Any:
    return Progress(run_id, 1, Delta("x"))


def _failed(run_id: int) -> Any:
    return Failed(run_id, CoreError("puppet", "broke"))


# --- observers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", RAISED, ids=repr)
@virtual
async def test_an_observer_that_raises_is_dropped_and_nobody_waits(fault: BaseException) -> None:
    core = PuppetCore()
    async with rigged(core) as rig:

        def observe(_: KernelEvent) -> None:
            raise fault

        rig.events.subscribe(observe)
        _, caller = rig.submit(rig.agent())
        core.finish()
        await settled()

        assert caller.text == "done"


# --- cores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["preempt", "cancel", "run"])
@virtual
async def test_a_core_that_raises_in_any_method_harms_no_call_of_another(method: str) -> None:
    bad, good = PuppetCore("bad", models=["bad"]), PuppetCore("good", models=["good"])
    async with rigged(bad, good, policy=Faulty()) as rig:
        setattr(bad, method, _raises)
        syscall, failing = rig.submit(rig.agent("a"), model="bad", max_tokens=50)
        rig.submit(rig.agent("a"), model="bad")
        if method != "run":
            bad.progress(num_tokens=20)
        _, served = rig.submit(rig.agent("b"), model="good")
        rig.dispatcher.cancel(syscall.id)
        good.finish()
        await settled()

        assert served.text == "done"
        assert failing.outcome is not None
        rig.check()
        if method == "cancel":
            bad.stop()


@virtual
async def test_a_core_that_cannot_say_how_full_it_is_counts_as_down() -> None:
    bad, good = PuppetCore("bad", models=["bad"]), PuppetCore("good", models=["good"])
    async with rigged(bad, good, limits=QueueLimits(core_wait_s=5.0)) as rig:
        bad.load = _raises  # type: ignore[method-assign]
        _, waiting = rig.submit(rig.agent("a"), model="bad")
        _, served = rig.submit(rig.agent("b"), model="good")
        good.finish()
        await settled()
        assert served.text == "done"
        assert not rig.pool.is_up("bad")

        await asyncio.sleep(20)
        assert isinstance(waiting.error, CoreUnavailable)


@virtual
async def test_a_core_whose_pause_is_no_number_is_asked_at_once() -> None:
    core = PuppetCore()
    core.load = lambda: CoreLoad(1, len(core.runs), available_in_s=float("nan"))  # type: ignore[method-assign]
    async with rigged(core) as rig:
        _, caller = rig.submit(rig.agent())
        core.finish()
        await settled()

        assert caller.text == "done"


@virtual
async def test_a_report_that_is_none_takes_no_other_of_its_batch_with_it() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        syscall, caller = rig.submit(rig.agent())
        core.tell("garbage", Finished(syscall.id, core.completion(syscall.id)))  # type: ignore[arg-type]
        core.runs.clear()
        await settled()

        assert caller.text == "done"


@virtual
async def test_a_core_that_dies_fails_each_of_its_calls_whatever_one_of_them_raises() -> None:
    core = PuppetCore(slots=3)
    async with rigged(core, limits=QueueLimits(max_attempts=1)) as rig:
        callers = [rig.submit(rig.agent())[1] for _ in range(3)]
        callers[0].reject = _raises  # type: ignore[method-assign]
        rig.callers.remove(callers[0])
        core.runs.clear()
        core.tell(CoreDown(CoreError("puppet", "power cut")))
        await settled()

        assert all(isinstance(caller.error, CoreError) for caller in callers[1:])


@virtual
async def test_a_snapshot_whose_run_could_not_begin_is_freed() -> None:
    core, image = PuppetCore(), Image()
    core.make_image = lambda: image
    async with rigged(core) as rig:
        agent = rig.agent()
        rig.submit(agent)
        await rig.dispatcher.freeze(agent)
        core.run = _raises  # type: ignore[method-assign,assignment]
        rig.dispatcher.thaw(agent)
        await settled()

        assert image.num_releases == 1


@virtual
async def test_an_image_that_cannot_be_freed_keeps_no_call_from_its_end() -> None:
    core, image = PuppetCore(), Image()
    image.release = _raises  # type: ignore[method-assign]
    core.make_image = lambda: image
    async with rigged(core) as rig:
        agent = rig.agent()
        syscall, caller = rig.submit(agent)
        await rig.dispatcher.freeze(agent)
        rig.dispatcher.cancel(syscall.id)

        assert caller.error is not None
        assert not agent.live_calls


# --- inside the kernel ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["keep_warm", "save", "restore", "discard", "make_room"])
@virtual
async def test_a_step_of_the_kernel_that_fails_concerns_one_call(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = PuppetCore(slots=2)
    async with rigged(core) as rig:
        first, failing = rig.submit(rig.agent("a"))
        second, served = rig.submit(rig.agent("b"))
        with monkeypatch.context() as patch:
            patch.setattr(rig.contexts, step, _raises)
            if step in ("save", "make_room", "restore"):
                first_report: Any = Preempted(first.id, Snapshot("m", output_ids=(1,)))
            else:
                completion = core.completion(first.id)
                first_report = Finished(first.id, completion, context=Snapshot("m"))
            core.tell(first_report, Finished(second.id, core.completion(second.id)))
            core.runs.clear()
            await settled()

            assert served.text == "done"
            assert failing.outcome is not None
        if step == "keep_warm":
            assert failing.text == "done", "its answer was there"


@virtual
async def test_check_finds_a_call_that_nothing_will_answer() -> None:
    core = PuppetCore()
    async with rigged(core) as rig:
        rig.submit(rig.agent())
        syscall, _ = rig.submit(rig.agent())
        rig.check()
        call = rig.dispatcher._calls[syscall.id]
        ticket, call.ticket = call.ticket, None

        with pytest.raises(KernelBug, match="is in no queue"):
            rig.dispatcher.check()

        call.ticket = ticket
        core.finish()
        await settled()
        core.finish()


# --- holds ----------------------------------------------------------------------------------------


def _raises(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("foreign")
