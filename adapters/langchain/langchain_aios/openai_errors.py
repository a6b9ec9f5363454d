"""Raise the kernel's errors as those of `openai` and `langchain_openai`, for substituted models.

A program may catch `openai.RateLimitError`, or pass it to retrying code: a raised error is
an instance of the kernel's, OpenAI's and LangChain's class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import openai
from langchain_openai.chat_models import base as theirs

from aios_adapters import as_openai_error, openai_kind_of
from aios_core.errors import ContextOverflow, CoreError, DeadlineExceeded, KernelError, RetryLater
from langchain_aios.errors import retry_facts

# The classes of langchain_openai that derive from LangChain's too, by OpenAI's class.
_NAMES: Final = {
    openai.AuthenticationError: "OpenAIAuthenticationError",
    openai.PermissionDeniedError: "OpenAIPermissionDeniedError",
    openai.NotFoundError: "OpenAIModelNotFoundError",
    openai.BadRequestError: "OpenAIInvalidRequestError",
    openai.RateLimitError: "OpenAIRateLimitError",
    openai.APIConnectionError: "OpenAIConnectionError",
    openai.APITimeoutError: "OpenAITimeoutError",
    openai.InternalServerError: "OpenAIAPIError",
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise kernel errors out of a block under the kernel's, LangChain's and openai's names."""
    try:
        yield
    except KernelError as exc:
        both = as_openai_error(exc, kind=_kind_of(exc))
        vars(both).update(_facts_of(exc))
        raise both from exc.__cause__


def _kind_of(error: KernelError) -> type[openai.OpenAIError]:
    kind: Any = openai_kind_of(error)
    name = _NAMES.get(kind, "")
    if isinstance(error, ContextOverflow):
        name = "OpenAIContextOverflowError"
    own: type[openai.OpenAIError] = getattr(theirs, name, kind)  # an older version has OpenAI's
    return own


def _facts_of(error: KernelError) -> dict[str, Any]:
    """Return the attributes of LangChain's class: no retry if the kernel refused or stopped it."""
    if isinstance(error, CoreError | DeadlineExceeded | RetryLater):
        return dict(retry_facts(error))
    return {"is_retryable": False}
