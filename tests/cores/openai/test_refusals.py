"""The OpenAI-compatible core when the server refuses a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aios_core.core import (
    Failed,
    LoadChanged,
)
from aios_core.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextOverflow,
    CoreError,
    KernelError,
    ModelNotFound,
    PermissionRefused,
    RateLimited,
    RequestRefused,
)
from aios_core.testing.stub_server import Answer, Refuse, StubServer

from .rig import STORY, ask, connected, failure


async def test_429_holds_back_the_whole_core_for_as_long_as_the_server_asks(
    serve: Callable[..., StubServer],
) -> None:
    server = serve([Refuse(429, headers={"Retry-After": "0.2"}), Answer(STORY)])
    async with connected(server) as rig:
        error = await failure(rig)
        pause_s = rig.core.load().available_in_s

        assert isinstance(error, RateLimited)
        assert 0 < error.retry_after_s <= 0.2
        assert 0 < pause_s <= 0.2

        await rig.until(lambda: rig.general, "report that the pause is over")
        assert rig.general == [LoadChanged()]
        assert rig.core.load().available_in_s == 0
        assert (await rig.generate(ask())).text == STORY


async def test_429_without_a_time_pauses_longer_each_time(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(Refuse(429))) as rig:
        await failure(rig)
        first_s = rig.core.load().available_in_s
        await failure(rig)  # it waits for the end of the pause, and is refused then

        assert 0.5 < first_s <= 1.0
        assert 1.5 < rig.core.load().available_in_s <= 2.0


async def test_a_quota_is_respected_by_all_calls_together(
    serve: Callable[..., StubServer],
) -> None:
    server = serve(requests_per_minute=2)
    async with connected(server) as rig:
        runs = [await rig.run(ask()) for _ in range(3)]
        ends = [await rig.end(run) for run in runs]

        refused = [end.error for end in ends if isinstance(end, Failed)]
        assert len(refused) == 1
        assert isinstance(refused[0], RateLimited)
        assert 50 < rig.core.load().available_in_s <= 60


async def test_a_used_up_quota_of_money_is_no_pause(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(Refuse(429, code="insufficient_quota"))) as rig:
        error = await failure(rig)

        assert isinstance(error, CoreError)
        assert not error.is_retryable
        assert rig.core.load().available_in_s == 0


async def test_5xx_is_retryable_and_leaves_the_core_up(serve: Callable[..., StubServer]) -> None:
    async with connected(serve([Refuse(500), Refuse(503), Answer(STORY)])) as rig:
        for _ in range(2):
            error = await failure(rig)
            assert isinstance(error, CoreError)
            assert error.is_retryable
        assert (await rig.generate(ask())).text == STORY


async def test_503_with_a_time_pauses_the_core(serve: Callable[..., StubServer]) -> None:
    async with connected(serve(Refuse(503, headers={"Retry-After": "30"}))) as rig:
        await failure(rig)

        assert 29 < rig.core.load().available_in_s <= 30


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refuse(400, "bad 'tools'"), RequestRefused),
        (Refuse(422, "bad 'temperature'"), RequestRefused),
        (Refuse(400, "no such prompt", code="content_filter"), ContentFiltered),
        (Refuse(400, "the prompt is longer than the maximum model length of 9"), ContextOverflow),
        (Refuse(404, "The model `x` does not exist"), ModelNotFound),
        (Refuse(401, "no such key"), AuthenticationFailed),
        (Refuse(403, "not this model"), PermissionRefused),
        (Refuse(418, "teapot"), CoreError),
    ],
    ids=lambda value: getattr(value, "message", None) or value.__name__,
)
async def test_a_refusal_that_cannot_pass_is_not_retryable(
    serve: Callable[..., StubServer], refusal: Refuse, kind: type[KernelError]
) -> None:
    async with connected(serve(refusal)) as rig:
        error = await failure(rig)

    assert type(error) is kind
    assert not getattr(error, "is_retryable", False)
    assert refusal.message in str(error) + "".join(getattr(error, "__notes__", ()))
    assert (error.status_code, error.provider_message) == (refusal.status, refusal.message)


async def test_an_error_says_which_request_was_refused_and_keeps_no_key(
    serve: Callable[..., StubServer],
) -> None:
    refusal = Refuse(
        401, "bad key sk-0123456789abcdefghijkl; not secret-of-ours", {"x-request-id": "req-7"}
    )
    async with connected(serve(refusal), api_key="secret-of-ours", probe=False) as rig:
        error = await failure(rig)

    assert error.request_id == "req-7"
    assert error.provider_message == "bad key [redacted]; not [redacted]"
    assert "secret-of-ours" not in str(error) + repr(error)
