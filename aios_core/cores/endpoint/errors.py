"""Convert an endpoint's refusals (HTTP status, headers and body) to the kernel's errors.

Pure, and independent of the client. Sources: OpenAI's and Anthropic's guides to errors, RFC 9110
(Retry-After, section 10.2.3), and the texts of vLLM, llama.cpp and Ollama for prompts that
are too long, since only some servers send a code for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aios_core.cores.quota.durations import seconds_of
from aios_core.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextOverflow,
    CoreError,
    KernelError,
    ModelNotFound,
    PermissionRefused,
    ProviderReply,
    RateLimited,
    RequestRefused,
)
from aios_core.redaction import learn, redact

OVERLOADED: Final = 529  # Anthropic's status for too much load from all its users
MAX_PAUSE_S: Final = 3_600.0  # a longer pause is reported as an error instead
_ABSURD_PAUSE_S: Final = 30 * 86_400.0  # certainly a mistake; the kernel's own back-off is used

_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum (model|context) length"
    r"|context (length|size|window|limit)|longer than the maximum|prompt is too long",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content_filter|content_policy|ResponsibleAIPolicy|content management policy"
    r"|content filtering policy",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d[\d,]*")
# The statuses of codes and types in error objects (OpenAI, Anthropic, Google), in lower case.
_STATUS_OF: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "request_too_large": 413,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "insufficient_quota": 429,
    "permission_error": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "api_error": 500,
    "timeout_error": 504,
    "gateway_timeout_error": 504,
    "overloaded_error": 529,
}
_REQUEST_ID_HEADERS: Final = ("x-request-id", "request-id", "apim-request-id", "cf-ray")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status or error object that a server sent instead of an answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    message: str
    code: str = ""

    @classmethod
    def of(
        cls, status: int, headers: Mapping[str, str], body: object, secret: str | None = None
    ) -> Refusal:
        """Read the error object, in any of the shapes in use, and remove the key from it."""
        learn(secret)
        error: Any = body
        if isinstance(body, Mapping):
            error = body.get("error", body)
        if not isinstance(error, Mapping):
            return cls(status, headers, redact(str(error or "no message"))[:500])
        message = error.get("message") or error.get("detail") or json.dumps(error, default=str)
        return cls(status, headers, redact(str(message))[:500], _code_of(error))

    @property
    def reply(self) -> ProviderReply:
        """The details that the error carries."""
        named = (self.headers.get(header) for header in _REQUEST_ID_HEADERS)
        return ProviderReply(
            self.status, self.message, self.code, request_id=next(filter(None, named), "")
        )

    @property
    def is_pause(self) -> bool:
        """Whether the server asks all callers to wait."""
        if self.status == 429:
            return not self.is_unpaid
        return self.status in (503, OVERLOADED) and "retry-after" in self.headers

    @property
    def is_unpaid(self) -> bool:
        """Whether the account has to be paid before it may send more."""
        is_unpaid = self.code in ("insufficient_quota", "billing_error")
        return is_unpaid or (self.status == 400 and "credit balance" in self.message)

    def asking_for(self, pause_s: float) -> Refusal:
        """Return a copy with another pause."""
        return replace(self, headers={**self.headers, "retry-after-ms": str(pause_s * 1e3)})

    def retry_after_s(self) -> float | None:
        """Return the seconds that the server asks to wait; None if it does not set them."""
        for header, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
            value = self.headers.get(header)
            seconds = None if value is None else seconds_of(value, unit_s)
            if seconds is not None and seconds < _ABSURD_PAUSE_S:
                return min(max(seconds, 0.0), MAX_PAUSE_S)
        return None


def _code_of(error: Mapping[str, Any]) -> str:
    """Return the code of an error object; a name is preferred to a number."""
    codes = [str(error[key]) for key in ("code", "type") if error.get(key)]
    return next((code for code in codes if not code.isdecimal()), next(iter(codes), ""))


def error_of(
    refusal: Refusal, *, core: str, model: str, models: tuple[str, ...], context_window: int
) -> KernelError:
    """Convert a refusal to the error of its call. The call must not have been served."""
    error = _error_of(refusal, core, model, models, context_window)
    error.reply = refusal.reply
    return error


def _error_of(  # noqa: PLR0911 - one row for each status
    refusal: Refusal, core: str, model: str, models: tuple[str, ...], context_window: int
) -> KernelError:
    message = f"the endpoint answered {refusal.status}: {refusal.message}"
    match refusal.status:
        case 400 | 402 | 429 if refusal.is_unpaid:
            return CoreError(core, message)
        case 401:
            return AuthenticationFailed(core, f"the endpoint refused the key: {refusal.message}")
        case 400 | 403 | 413 | 422 if _is_filtered(refusal):
            return ContentFiltered(core, message)
        case 403:
            return PermissionRefused(core, f"the endpoint refused the key: {refusal.message}")
        case 404 if "model" in refusal.message.lower() or refusal.code == "model_not_found":
            error = ModelNotFound(core, model, (m for m in models if m != model))
            error.add_note(message)
            return error
        case 400 | 413 | 422 if _is_overflow(refusal):
            return _overflow(refusal, model, context_window)
        case 400 | 413 | 422:
            return RequestRefused(core, message)
        case 429:
            return RateLimited(f"core {core!r}: {message}", refusal.retry_after_s() or 0.0)
        case 408 | 409 | 425:
            return CoreError(core, message, is_retryable=True)
        case status:
            return CoreError(core, message, is_retryable=status >= 500)


def error_within(
    answer: Any, headers: Mapping[str, str], secret: str | None = None
) -> Refusal | None:
    """Return the refusal inside an answer with status 200; None if it holds none."""
    answer = _failed_response(answer) or answer
    if not isinstance(answer, Mapping) or not (answer.get("error") or _is_flat_error(answer)):
        return None
    error = answer.get("error") or answer
    refusal = Refusal.of(200, {**_headers_within(error), **headers}, answer, secret)
    return replace(refusal, status=_status_within(error, refusal))


def no_completion(core: str, beginning: str, secret: str | None = None) -> CoreError:
    """Return the error for a body with status 200 other than a completion, as a login page."""
    learn(secret)
    shown = redact(beginning.strip())
    what = f"a body that is not an answer of a model: {shown!r}" if shown else "an empty body"
    error = CoreError(core, f"the endpoint answered 200 with {what}")
    error.reply = ProviderReply(200, shown)
    return error


def _failed_response(event: Any) -> Mapping[str, Any] | None:
    """Return the failed response in an event of OpenAI's Responses API, if it is one."""
    if not isinstance(event, Mapping) or event.get("type") != "response.failed":
        return None
    response = event.get("response")
    error = response.get("error") if isinstance(response, Mapping) else None
    return {"error": error or {"message": "the response failed, and the server gave no reason"}}


def _is_flat_error(answer: Mapping[str, Any]) -> bool:
    return answer.get("object") == "error" and "choices" not in answer


def _status_within(error: Any, refusal: Refusal) -> int:
    """Return the status that an error object stands for; 200 if it names no known reason."""
    facts = error if isinstance(error, Mapping) else {}
    for key in ("code", "status", "status_code", "type"):
        word = str(facts.get(key) or "").lower()
        if word.isdecimal() and 400 <= int(word) < 600:
            return int(word)
        if (status := _STATUS_OF.get(word)) is not None:
            return status
    return 400 if _is_overflow(refusal) or _is_filtered(refusal) else 200


def _headers_within(error: Any) -> dict[str, str]:
    """Return the provider's headers that a gateway puts into an error object (OpenRouter)."""
    metadata = error.get("metadata") if isinstance(error, Mapping) else None
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _is_filtered(refusal: Refusal) -> bool:
    return bool(_FILTERED.search(refusal.code) or _FILTERED.search(refusal.message))


def _is_overflow(refusal: Refusal) -> bool:
    return bool(_TOO_LONG.search(refusal.code) or _TOO_LONG.search(refusal.message))


def _overflow(refusal: Refusal, model: str, context_window: int) -> ContextOverflow:
    """Build the error with the numbers in the server's message: window and requested tokens."""
    numbers = [int(n.replace(",", "")) for n in _NUMBER.findall(refusal.message)]
    larger = [n for n in numbers if n > context_window]
    error = ContextOverflow(min(larger, default=context_window + 1), context_window, model)
    error.add_note(refusal.message)
    return error


def innermost_cause(exc: BaseException) -> str:
    """Return the innermost reason; the client's own text is only "Connection error."."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return f"{type(exc).__name__}: {exc}".removesuffix(": ")
