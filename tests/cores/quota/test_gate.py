"""Calls wait at a gate in the order in which they came; cores share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.quota.costs import CallSize
from aios_core.cores.quota.gate import QuotaGate, QuotaKey, shared_gate
from aios_core.testing import run_virtual

SIZE = CallSize(100, 20)


def gate(*, starts_slowly: bool = True, **limits: int) -> QuotaGate:
    loop = asyncio.get_running_loop()
    return QuotaGate(QuotaOptions(**limits), loop=loop, starts_slowly=starts_slowly)  # type: ignore[arg-type]


def virtual(work: Callable[[], object]) -> None:
    async def run() -> None:
        result = work()
        if asyncio.iscoroutine(result):
            await result

    run_virtual(run())


def test_with_a_quota_of_one_call_exactly_one_may_leave() -> None:
    async def work() -> None:
        one = gate()
        permit = one.reserve(SIZE)

        assert permit.lease is not None
        assert one.available_in_s() > 0
        permit.accepted({"x-ratelimit-remaining-requests": "0", "x-ratelimit-limit-requests": "1"})
        assert one.available_in_s() > 0
        one.close()

    virtual(work)


def test_a_call_that_has_to_wait_is_sent_when_there_is_room() -> None:
    async def work() -> None:
        one = gate(requests_per_minute=60)
        first, second, third = (one.reserve(SIZE) for _ in range(3))
        await second.granted()
        await third.granted()

        assert first.lease is not None
        assert (round(second.waited_s, 2), round(third.waited_s, 2)) == (1.0, 2.0)
        for permit in (first, second, third):
            permit.end()
        one.close()

    virtual(work)


def test_a_cancelled_call_leaves_its_place_to_the_next() -> None:
    async def work() -> None:
        one = gate(requests_per_minute=60)
        _, second, third = (one.reserve(SIZE) for _ in range(3))
        second.end()
        second.end()
        await third.granted()

        assert round(third.waited_s, 2) == 1.0
        one.close()

    virtual(work)


def test_listeners_are_called_once_there_is_room_again() -> None:
    async def work() -> None:
        one, calls = gate(), []
        stop = one.listen(lambda: calls.append(one.now()))
        permit = one.reserve(SIZE)
        assert one.available_in_s() > 0

        permit.accepted({})

        assert calls == [0.0]
        stop()

    virtual(work)


def test_one_key_and_model_is_one_quota_and_a_name_joins_several() -> None:
    async def work() -> None:
        plain, named = QuotaOptions(), QuotaOptions(quota="team", requests_per_minute=60)

        def key(options: QuotaOptions, model: str, held: str = "k") -> QuotaKey:
            return QuotaKey.of(options, base_url="https://x/v1", api_key=held, model=model)

        def shared(options: QuotaOptions, model: str) -> QuotaGate:
            return shared_gate(key(options, model), options, starts_slowly=True)

        one, two, other = shared(plain, "a"), shared(plain, "a"), shared(plain, "b")
        assert one is two
        assert one is not other
        assert key(named, "a") == key(named, "b")
        assert key(plain, "a") != key(plain, "a", "another key")
        assert "another key" not in repr(key(plain, "a", "another key"))

    virtual(work)


def test_the_smallest_limit_counts_where_cores_share_a_quota() -> None:
    async def work() -> None:
        key = QuotaKey("name shared")
        held = shared_gate(key, QuotaOptions(requests_per_minute=600), starts_slowly=True)
        again = shared_gate(key, QuotaOptions(requests_per_minute=60), starts_slowly=True)

        assert held is again
        assert held.governor.options.requests_per_minute == 60

    virtual(work)
