"""Raise the kernel's errors under LangChain's names as well.

Such as `ContextOverflowError`, on which its summarizing middleware acts, or `ModelError`
with `is_retryable`, on which its retrying middleware acts. A raised error is an instance
of both classes (`aios_adapters.error_mapping`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from langchain_core import exceptions as theirs

from aios_adapters import ErrorMapping
from aios_core import errors as ours

_SERVER_ERROR: Final = 500
# The most specific first. Names that an older langchain-core lacks are left out.
_SAME: Final = (
    (ours.ContextOverflow, "ContextOverflowError"),
    (ours.AuthenticationFailed, "ModelAuthenticationError"),
    (ours.PermissionRefused, "ModelPermissionDeniedError"),
    (ours.NoSuchObject, "ModelNotFoundError"),
    (ours.InvalidRequest, "ModelInvalidRequestError"),
    (ours.RateLimited, "ModelRateLimitError"),
    (ours.Overloaded, "ModelRateLimitError"),
    (ours.CoreUnavailable, "ModelConnectionError"),
    (ours.AccessDenied, "ModelPermissionDeniedError"),
    (ours.DeadlineExceeded, "ModelTimeoutError"),
    (ours.CoreError, "ModelAPIError"),
    (ours.OutOfMemory, "ModelAPIError"),
)


def retry_facts(error: ours.KernelError) -> Mapping[str, Any]:
    """Return `is_retryable` of a failed call, by LangChain's rule for the provider's status."""
    if not isinstance(error, ours.CoreError) or isinstance(error, ours.InvalidRequest):
        return {}
    return {"is_retryable": True} if (error.status_code or 0) >= _SERVER_ERROR else {}


#: Raises kernel errors that leave a block under both names.
translated: Final = ErrorMapping(
    ((own, getattr(theirs, name, None)) for own, name in _SAME), retry_facts
).as_framework_error
