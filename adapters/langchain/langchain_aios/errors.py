"""The kernel's errors, where LangChain has a kind of its own for them.

For one, `ContextOverflowError`, on which its summarising middleware acts, or
`ModelError` with `is_retryable`, on which its retrying middleware does. What is
raised is both, see `aios_core.adapting.errors`.
"""

from __future__ import annotations

from typing import Final

from langchain_core import exceptions as theirs

from aios_core import errors as ours
from aios_core.adapting import ErrorNames

# The most special first. Names that an older langchain-core lacks are left out.
_SAME: Final = (
    (ours.ContextOverflow, "ContextOverflowError"),
    (ours.NoSuchObject, "ModelNotFoundError"),
    (ours.InvalidRequest, "ModelInvalidRequestError"),
    (ours.RateLimited, "ModelRateLimitError"),
    (ours.Overloaded, "ModelRateLimitError"),
    (ours.CoreUnavailable, "ModelConnectionError"),
    (ours.AccessDenied, "ModelPermissionDeniedError"),
    (ours.DeadlineExceeded, "ModelTimeoutError"),
)

#: Lets kernel errors out of a block under both names.
translated: Final = ErrorNames((own, getattr(theirs, name, None)) for own, name in _SAME).both
