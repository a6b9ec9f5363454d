"""The kernel's errors are also those that OpenAI's client raises for the same reason."""

from __future__ import annotations

import httpx
import openai
import pytest

from aios_adapters.openai_errors import as_both, as_openai_error, as_response
from aios_core import errors
from aios_core.cores.endpoint.errors import Refusal, error_of
from aios_core.testing.stub_server import Refuse, StubServer

REQUEST = httpx.Request("POST", "http://x/v1/chat/completions")


@pytest.mark.parametrize(
    ("error", "theirs", "status"),
    [
        (errors.AuthenticationFailed("c", "bad key"), openai.AuthenticationError, 401),
        (errors.PermissionRefused("c", "no"), openai.PermissionDeniedError, 403),
        (errors.ModelNotFound("c", "m"), openai.NotFoundError, 404),
        (errors.ContentFiltered("c", "no"), openai.BadRequestError, 400),
        (errors.ContextOverflow(9, 8, "m"), openai.BadRequestError, 400),
        (errors.RateLimited("slow down", 2.0), openai.RateLimitError, 429),
        (errors.InvalidRequest("wrong"), openai.BadRequestError, 400),
        (errors.CoreError("c", "oh"), openai.InternalServerError, 500),
    ],
)
def test_an_error_is_both(
    error: errors.KernelError, theirs: type[openai.APIStatusError], status: int
) -> None:
    joined = as_openai_error(error, REQUEST)

    assert isinstance(joined, theirs)
    assert isinstance(joined, type(error))
    assert str(joined) == str(error)
    assert (joined.status_code, joined.response.status_code) == (status, status)


def test_the_code_tells_a_long_context_and_a_filter_apart() -> None:
    long = as_openai_error(errors.ContextOverflow(9, 8, "m"))
    filtered = as_openai_error(errors.ContentFiltered("c", "no"))

    assert isinstance(long, openai.BadRequestError)
    assert isinstance(filtered, openai.BadRequestError)
    assert (long.code, filtered.code) == ("context_length_exceeded", "content_filter")


def test_a_deadline_is_a_timeout_that_is_not_tried_again() -> None:
    error = errors.DeadlineExceeded(1.0, "waiting")

    assert isinstance(as_openai_error(error), openai.APITimeoutError)
    assert as_response(error, REQUEST).headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("error", "theirs", "is_tried_again"),
    [
        (errors.RateLimited("busy", 2.0), openai.RateLimitError, "false"),
        (errors.CoreUnavailable("down", 2.0), openai.APIConnectionError, "false"),
        (errors.Overloaded("queue", 5, 2.0), openai.RateLimitError, "true"),
        (errors.BudgetExceeded("a", "tokens", 10, 8, 5), openai.RateLimitError, "false"),
        (errors.SyscallCancelled("killed"), openai.APIStatusError, "false"),
    ],
)
def test_a_client_tries_again_only_what_the_kernel_has_not_tried(
    error: errors.KernelError, theirs: type[openai.APIError], is_tried_again: str
) -> None:
    assert isinstance(as_openai_error(error), theirs)
    assert as_response(error, REQUEST).headers["x-should-retry"] == is_tried_again


def test_what_was_stopped_is_of_no_kind_that_retrying_code_takes_up() -> None:
    stopped = as_openai_error(errors.KernelClosed("closed"))

    retried = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)
    assert isinstance(stopped, openai.APIStatusError)
    assert not isinstance(stopped, retried)


def test_the_providers_status_of_a_failure_and_its_id_of_the_request_are_kept() -> None:
    failed = errors.CoreError("c", "oh")
    failed.reply = errors.ProviderReply(502, request_id="req-1")
    joined = as_openai_error(failed)

    assert isinstance(joined, openai.InternalServerError)
    assert (joined.status_code, joined.request_id) == (502, "req-1")


def test_a_framework_may_have_a_class_of_its_own_for_a_kind() -> None:
    class Limited(openai.RateLimitError):
        is_retryable = True

    joined = as_openai_error(errors.RateLimited("busy", 2.0), kind=Limited)

    assert isinstance(joined, Limited)
    assert isinstance(joined, errors.RateLimited)
    assert joined.retry_after_s == 2.0


def test_a_pause_is_said_as_openai_says_it() -> None:
    response = as_response(errors.RateLimited("slow down", 1.5), REQUEST)

    assert (response.status_code, response.headers["retry-after-ms"]) == (429, "1500")


def test_a_frameworks_own_error_is_joined_too() -> None:
    class Failed(Exception):
        pass

    joined = as_both(errors.InvalidRequest("wrong"), Failed("it failed"))

    assert isinstance(joined, Failed)
    assert isinstance(joined, errors.InvalidRequest)
    assert str(joined) == "wrong"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 502, 503])
def test_a_refused_request_is_of_the_kind_that_openais_own_client_raises(status: int) -> None:
    with StubServer(Refuse(status, "nope")) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key="k", max_retries=0)
        with pytest.raises(openai.APIStatusError) as native, client:
            client.chat.completions.create(model="stub", messages=[])
    refusal = Refusal.of(status, {}, native.value.body)

    ours = as_openai_error(
        error_of(refusal, core="c", model="stub", models=("stub",), context_window=9)
    )

    assert isinstance(ours, type(native.value))
    assert (ours.status_code, ours.response.status_code) == (status, status)
