"""Raise the kernel's errors as those of Anthropic's client, on which retrying code acts.

A raised error is an instance of both: it is caught as the kernel's error, with its attributes and
message, and as the exception of Anthropic's client for the same reason. Needs the package
`anthropic`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import anthropic

from aios_adapters.joined_errors import join_errors
from aios_core import errors
from aios_core.cores.anthropic.client_library import http
from aios_core.errors import KernelError


class _Kind(NamedTuple):
    ours: type[KernelError]
    status: int
    code: str


# The most specific first.
_KINDS: Final = (
    _Kind(errors.AuthenticationFailed, 401, "authentication_error"),
    _Kind(errors.PermissionRefused, 403, "permission_error"),
    _Kind(errors.AccessDenied, 403, "permission_error"),
    _Kind(errors.NoSuchObject, 404, "not_found_error"),
    _Kind(errors.InvalidRequest, 400, "invalid_request_error"),
    _Kind(errors.LimitReached, 429, "rate_limit_error"),
    _Kind(errors.CoreUnavailable, 529, "overloaded_error"),
    _Kind(errors.RetryLater, 429, "rate_limit_error"),
    _Kind(errors.DeadlineExceeded, 408, "timeout_error"),
    # No retrying code acts on 499: a stopped call must not start again.
    _Kind(errors.Interrupted, 499, "api_error"),
    _Kind(KernelError, 500, "api_error"),
)
# Rows that are vague about the reason: here the provider's own status is used if there is one.
_GENERAL: Final = (errors.InvalidRequest, KernelError)


def as_message_error(error: KernelError, request: Any) -> Any:
    """Return the response that Anthropic's endpoint would send for an error.

    Only an `Overloaded` kernel allows a retry: the kernel has retried everything else itself.
    """
    kind = _kind(error)
    headers = {"x-should-retry": str(isinstance(error, errors.Overloaded)).lower()}
    if isinstance(error, errors.RetryLater):
        headers["retry-after-ms"] = str(int(error.retry_after_s * 1_000))
    if error.request_id:
        headers["request-id"] = error.request_id
    body = {"type": "error", "error": {"type": kind.code, "message": str(error)}}
    return http.Response(kind.status, headers=headers, json=body, request=request)


def as_anthropic_error(error: KernelError, request: Any) -> Exception:
    """Return the kernel's error as the exception of Anthropic's client for the same reason."""
    response = as_message_error(error, request)
    client: Any = anthropic.Anthropic(api_key="none", base_url=str(request.url))
    with client:
        theirs = client._make_status_error(  # noqa: SLF001 - as the client itself makes them
            str(error), body=response.json(), response=response
        )
    return as_both_anthropic(error, theirs)


def as_both_anthropic(error: KernelError, theirs: Exception) -> Exception:
    """Return an error that is both the kernel's and that of Anthropic's client."""
    if isinstance(error, type(theirs)):
        return error
    # The client sets these on the instance, where the kernel has properties.
    return join_errors(error, theirs, {"status_code": None, "request_id": None})


def _kind(error: KernelError) -> _Kind:
    kind = next(kind for kind in _KINDS if isinstance(error, kind.ours))
    status = error.reply.status_code if error.reply else None
    if kind.ours not in _GENERAL or status is None or not 400 <= status < 600:
        return kind
    return kind._replace(status=status)
