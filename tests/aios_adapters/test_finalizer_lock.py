"""A finalizer hands over its work, and never waits for a lock that another thread holds."""

from __future__ import annotations

import threading
from collections.abc import Callable

from aios_adapters import AgentDirectory, Caller
from aios_adapters.finalizer_lock import FinalizerLock

PATIENCE_S = 30.0


def noting(done: list[str], name: str) -> Callable[[], Callable[[], object]]:
    def work() -> Callable[[], object]:
        done.append(name)
        return lambda: done.append(f"after {name}")

    return work


def test_work_runs_at_once_while_the_lock_is_free() -> None:
    lock, done = FinalizerLock(), list[str]()

    lock.run_soon(noting(done, "a"))

    assert done == ["a", "after a"]


def test_work_waits_until_its_own_thread_leaves_the_critical_section() -> None:
    lock, done = FinalizerLock(), list[str]()

    with lock:
        lock.run_soon(noting(done, "a"))
        assert done == []

    assert done == ["a", "after a"]


def test_a_thread_that_collects_does_not_wait_for_the_one_that_holds_the_lock() -> None:
    lock, done = FinalizerLock(), list[str]()
    another = threading.Thread(target=lambda: lock.run_soon(noting(done, "a")))

    with lock:
        another.start()
        another.join(PATIENCE_S)
        assert not another.is_alive()
        assert done == []

    assert done == ["a", "after a"]


def test_work_that_comes_while_work_runs_is_run_too() -> None:
    lock, done = FinalizerLock(), list[str]()

    def work() -> None:
        lock.run_soon(noting(done, "b"))
        done.append("a")

    lock.run_soon(work)

    assert done == ["a", "b", "after b"]


def test_ending_a_caller_never_waits_for_the_directory() -> None:
    directory = AgentDirectory()
    caller = Caller.named("ann")
    ending = threading.Thread(target=lambda: directory.end(caller))

    with directory._lock:
        ending.start()
        ending.join(PATIENCE_S)
        assert not ending.is_alive()


def test_what_many_threads_hand_over_is_run_once_each() -> None:
    lock, counts = FinalizerLock(), list[int]()

    def hand_over(number: int) -> None:
        for step in range(200):
            if step % 3:
                lock.run_soon(lambda: counts.append(number))
            else:
                with lock:
                    counts.append(number)

    threads = [threading.Thread(target=hand_over, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert sorted(counts) == sorted(number for number in range(4) for _ in range(200))
