"""Events are delivered in order, kept within bounds, and never block the kernel."""

from __future__ import annotations

import logging

import pytest

from aios_core import EventKind, EventLog, KernelEvent
from aios_core.events import EventStream


def event(at: float = 0.5, kind: EventKind = EventKind.SUBMITTED, **more: int) -> KernelEvent:
    return KernelEvent(at, kind, **more)  # type: ignore[arg-type]


def test_observers_hear_events_in_order() -> None:
    first, second = EventLog(), EventLog()
    stream = EventStream([first])
    stream.subscribe(second)
    for at in (1, 2, 3):
        stream.emit(event(at))

    assert [e.at for e in first.events()] == [e.at for e in second.events()] == [1, 2, 3]


def test_a_stream_without_observers_is_false_so_that_events_need_not_be_built() -> None:
    stream = EventStream()
    unsubscribe = stream.subscribe(EventLog())
    assert stream

    unsubscribe()
    unsubscribe()
    assert not stream


def test_an_observer_that_raises_is_dropped_with_a_traceback_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bad(_: KernelEvent) -> None:
        raise RuntimeError("mine")

    journal = EventLog()
    stream = EventStream([bad, journal])
    with caplog.at_level(logging.ERROR):
        stream.emit(event(1))
        stream.emit(event(2))

    assert len(journal) == 2
    assert len(caplog.records) == 1
    assert "in test_an_observer_that_raises" in caplog.text


def test_an_observer_may_unsubscribe_itself_while_it_is_told() -> None:
    heard = []
    stream = EventStream()

    def once(e: KernelEvent) -> None:
        heard.append(e.at)
        unsubscribe()

    unsubscribe = stream.subscribe(once)
    journal = EventLog()
    stream.subscribe(journal)
    stream.emit(event(1))
    stream.emit(event(2))

    assert heard == [1]
    assert len(journal) == 2


def test_a_journal_keeps_the_latest() -> None:
    journal = EventLog(keep=2)
    for at in (1, 2, 3):
        journal(event(at))

    assert [e.at for e in journal.events()] == [2, 3]


def test_a_story_shows_no_digits_that_mean_nothing() -> None:
    journal = EventLog()
    facts = {"took_s": 0.15227822899942112, "left": 1e6 / 3}
    journal(KernelEvent(2.0, EventKind.DONE, 1, 7, facts))

    assert journal.format().endswith("took_s=0.152 left=333333.333")


def test_a_story_is_of_one_call_or_one_agent() -> None:
    journal = EventLog()
    journal(event(1, pid=1, syscall_id=7))
    journal(event(2, pid=1, syscall_id=8))
    journal(event(3, EventKind.DONE, pid=1, syscall_id=7))
    journal(event(4, pid=2, syscall_id=9))

    assert [e.at for e in journal.events(pid=1)] == [1, 2, 3]
    assert journal.format(syscall_id=7) == (
        "+1.000 s     agent 1 syscall 7 call.submitted\n+3.000 s     agent 1 syscall 7 call.done"
    )


def test_an_event_is_told_with_its_facts() -> None:
    told = KernelEvent(12.5, EventKind.CORE_DOWN, facts={"core": "gpu0", "reason": "lost"})

    assert str(told) == "   12.5000 core.down core=gpu0 reason=lost"
