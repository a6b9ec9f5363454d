"""Raise the kernel's errors as those of OpenAI's client, on which retrying code acts.

A raised error is an instance of both: it is caught as the kernel's error, with its attributes and
message, and as the exception of OpenAI's client for the same reason. Needs the package `openai`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import httpx
import openai

from aios_adapters.joined_errors import join_errors
from aios_core import errors
from aios_core.errors import KernelError


class _Kind(NamedTuple):
    ours: type[KernelError]
    status: int
    theirs: type[openai.OpenAIError]
    code: str | None = None


# The most specific first.
_KINDS: Final = (
    _Kind(errors.AuthenticationFailed, 401, openai.AuthenticationError, "invalid_api_key"),
    _Kind(errors.PermissionRefused, 403, openai.PermissionDeniedError),
    _Kind(errors.AccessDenied, 403, openai.PermissionDeniedError),
    _Kind(errors.ContentFiltered, 400, openai.BadRequestError, "content_filter"),
    _Kind(errors.ContextOverflow, 400, openai.BadRequestError, "context_length_exceeded"),
    _Kind(errors.NoSuchObject, 404, openai.NotFoundError, "model_not_found"),
    _Kind(errors.InvalidRequest, 400, openai.BadRequestError),
    _Kind(errors.LimitReached, 429, openai.RateLimitError, "insufficient_quota"),
    _Kind(errors.CoreUnavailable, 503, openai.APIConnectionError),
    _Kind(errors.RetryLater, 429, openai.RateLimitError, "rate_limit_exceeded"),
    _Kind(errors.DeadlineExceeded, 408, openai.APITimeoutError),
    # No retrying code acts on 499: a stopped call must not start again.
    _Kind(errors.Interrupted, 499, openai.APIStatusError),
    _Kind(KernelError, 500, openai.InternalServerError),
)
# Rows that are vague about the reason: here the provider's own status is used if there is one.
_GENERAL: Final = (errors.InvalidRequest, KernelError)
_BY_STATUS: Final[dict[int, type[openai.OpenAIError]]] = {
    400: openai.BadRequestError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


def openai_kind_of(error: KernelError) -> type[openai.OpenAIError]:
    """Return the exception class of OpenAI's client for the reason of a kernel error."""
    return _kind(error).theirs


def as_response(error: KernelError, request: httpx.Request) -> httpx.Response:
    """Return the response that OpenAI's endpoint would send for an error.

    Only an `Overloaded` kernel allows a retry: the kernel has retried everything else itself.
    """
    headers = {"x-should-retry": str(isinstance(error, errors.Overloaded)).lower()}
    if isinstance(error, errors.RetryLater):
        headers["retry-after-ms"] = str(int(error.retry_after_s * 1_000))
    if error.request_id:
        headers["x-request-id"] = error.request_id
    body = {"error": {"message": str(error), "type": type(error).__name__, "code": _code(error)}}
    return httpx.Response(_kind(error).status, headers=headers, json=body, request=request)


def as_openai_error(
    error: KernelError,
    request: httpx.Request | None = None,
    *,
    kind: type[openai.OpenAIError] | None = None,
) -> Exception:
    """Return the kernel's error as the exception of OpenAI's client for the same reason.

    Args:
        error: the kernel's error.
        request: the client's request; None if there was none.
        kind: a framework's class derived from `openai_kind_of(error)`, used instead of it.
    """
    return as_both(error, _made_by(kind or openai_kind_of(error), error, request or _NO_REQUEST))


def as_both(error: KernelError, theirs: Exception) -> Exception:
    """Return an error that is both the kernel's and another library's, with both's attributes.

    Args:
        error: the kernel's error.
        theirs: the error that a framework, or OpenAI's client, raised because of it.
    """
    if isinstance(error, type(theirs)):
        return error
    if isinstance(theirs, openai.OpenAIError) and not isinstance(theirs, openai_kind_of(error)):
        theirs = _made_by(openai_kind_of(error), error, getattr(theirs, "request", _NO_REQUEST))
    # OpenAI's client sets these on the instance, where the kernel has properties.
    is_of_client = isinstance(theirs, openai.OpenAIError)
    return join_errors(
        error, theirs, {"status_code": None, "request_id": None} if is_of_client else None
    )


@contextmanager
def openai_named() -> Iterator[None]:
    """Raise kernel errors that leave the block under the names of OpenAI's client as well."""
    try:
        yield
    except KernelError as exc:
        raise as_openai_error(exc) from exc.__cause__


_NO_REQUEST: Final = httpx.Request("POST", "http://kernel/chat/completions")


def _kind(error: KernelError) -> _Kind:
    kind = next(kind for kind in _KINDS if isinstance(error, kind.ours))
    status = error.reply.status_code if error.reply else None
    if kind.ours not in _GENERAL or status is None or not 400 <= status < 600:
        return kind
    usual = openai.InternalServerError if status >= 500 else openai.APIStatusError
    return kind._replace(status=status, theirs=_BY_STATUS.get(status, usual))


def _code(error: KernelError) -> str | None:
    return (error.reply.code if error.reply else None) or _kind(error).code


def _made_by(kind: Any, error: KernelError, request: httpx.Request) -> openai.OpenAIError:
    made: openai.OpenAIError
    if issubclass(kind, openai.APITimeoutError):
        made = kind(request=request)
    elif issubclass(kind, openai.APIConnectionError):
        made = kind(message=str(error), request=request)
    else:
        response = as_response(error, request)
        made = kind(str(error), response=response, body=response.json()["error"])
    return made
