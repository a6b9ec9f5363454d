"""The kernel's errors as those of `openai` and `langchain_openai`, for substituted models.

A program that catches `openai.RateLimitError`, or hands it to retrying code, finds it here
too; what is raised is both, see `aios_core.adapting.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx
import openai
from langchain_openai.chat_models import base as theirs

from aios_core import errors as ours
from aios_core.adapting import ErrorNames
from langchain_aios.errors import retry_facts


def _kind(name: str, otherwise: type[Exception]) -> type[Exception]:
    """A class of langchain_openai; in an older version, that of `openai`."""
    kind: type[Exception] = getattr(theirs, name, otherwise)
    return kind


_DENIED: Final = _kind("OpenAIPermissionDeniedError", openai.PermissionDeniedError)
_LIMITED: Final = _kind("OpenAIRateLimitError", openai.RateLimitError)
_FAILED: Final = _kind("OpenAIAPIError", openai.InternalServerError)
# The most special first.
_SAME: Final = (
    (ours.ContextOverflow, _kind("OpenAIContextOverflowError", openai.BadRequestError)),
    (
        ours.AuthenticationFailed,
        _kind("OpenAIAuthenticationError", openai.AuthenticationError),
    ),
    (ours.PermissionRefused, _DENIED),
    (ours.NoSuchObject, _kind("OpenAIModelNotFoundError", openai.NotFoundError)),
    (ours.InvalidRequest, _kind("OpenAIInvalidRequestError", openai.BadRequestError)),
    (ours.RateLimited, _LIMITED),
    (ours.Overloaded, _LIMITED),
    (ours.CoreUnavailable, _kind("OpenAIConnectionError", openai.APIConnectionError)),
    (ours.AccessDenied, _DENIED),
    (ours.DeadlineExceeded, _kind("OpenAITimeoutError", openai.APITimeoutError)),
    (ours.CoreError, _FAILED),
    (ours.OutOfMemory, _FAILED),
)
_REQUEST: Final = httpx.Request("POST", "http://kernel.invalid/v1/chat/completions")
_UNKNOWN: Final = 500


def _facts_of(error: ours.KernelError) -> Mapping[str, Any]:
    """What openai's errors have: the response, as far as the kernel knows of one."""
    reply = error.reply
    facts: dict[str, Any] = {
        **retry_facts(error),
        "message": error.provider_message or str(error),
        "request": _REQUEST,
        "body": None,
        "code": (reply.code or None) if reply else None,
        "param": None,
        "type": None,
    }
    if isinstance(error, openai.APIStatusError):
        headers = {"x-request-id": error.request_id} if error.request_id else {}
        facts["response"] = httpx.Response(
            error.status_code or _UNKNOWN, request=_REQUEST, headers=headers
        )
    return facts


def _members_of(_: type[ours.KernelError], kind: type[Exception]) -> Mapping[str, Any]:
    """The status that openai's class stands for, where no provider said one."""
    status = getattr(kind, "status_code", None)
    if not isinstance(status, int):
        status = _UNKNOWN if issubclass(kind, openai.APIStatusError) else None
    return {"status_code": property(lambda self: (self.reply and self.reply.status_code) or status)}


#: Lets kernel errors out of a block under the kernel's, LangChain's and openai's names.
translated: Final = ErrorNames(_SAME, _facts_of, _members_of).both
