"""A kernel error goes by LangChain's name too, where there is one."""

from __future__ import annotations

import openai
import pytest
from langchain_core import exceptions as theirs

from aios_core import errors as ours
from langchain_aios.errors import translated
from langchain_aios.openai_errors import translated as translated_for_openai


@pytest.mark.parametrize(
    ("error", "other"),
    [
        (ours.ContextOverflow(9, 8, "m"), theirs.ContextOverflowError),
        (ours.NoSuchObject("model", "x", ["y"]), theirs.ModelNotFoundError),
        (ours.InvalidRequest("empty"), theirs.ModelInvalidRequestError),
        (ours.RateLimited("busy", 2.0), theirs.ModelRateLimitError),
        (ours.Overloaded("queue", 5, 2.0), theirs.ModelRateLimitError),
        (ours.CoreUnavailable("down", 2.0), theirs.ModelConnectionError),
        (ours.DeadlineExceeded(1.0, "running"), theirs.ModelTimeoutError),
        (ours.AccessDenied(1, "read", "x"), theirs.ModelPermissionDeniedError),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_caught_by_either_name(error: ours.KernelError, other: type[Exception]) -> None:
    with pytest.raises(other) as caught, translated():
        raise error

    assert isinstance(caught.value, type(error))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error), "its facts are still there"


def test_what_may_be_repeated_is_what_the_kernel_says() -> None:
    with pytest.raises(theirs.ModelError) as busy, translated():
        raise ours.Overloaded("queue", 5, 2.0)
    with pytest.raises(theirs.ModelError) as wrong, translated():
        raise ours.InvalidRequest("empty")

    assert busy.value.is_retryable
    assert not wrong.value.is_retryable


def test_an_error_without_another_name_passes_as_it_is() -> None:
    error = ours.BudgetExceeded("agent", "tokens", 10, 8, 5)

    with pytest.raises(ours.BudgetExceeded) as caught, translated():
        raise error

    assert caught.value is error


def test_the_cause_is_kept() -> None:
    error = ours.RateLimited("busy", 1.0)
    error.__cause__ = OSError("429")

    with pytest.raises(ours.RateLimited) as caught, translated():
        raise error

    assert caught.value.__cause__ is error.__cause__


@pytest.mark.parametrize(
    ("error", "others", "is_retryable"),
    [
        (
            ours.ContextOverflow(9, 8, "m"),
            (openai.BadRequestError, theirs.ContextOverflowError),
            False,
        ),
        (ours.RateLimited("busy", 2.0), (openai.RateLimitError, theirs.ModelRateLimitError), True),
        (
            ours.CoreUnavailable("down", 2.0),
            (openai.APIConnectionError, theirs.ModelConnectionError),
            True,
        ),
        (
            ours.DeadlineExceeded(1.0, "running"),
            (openai.APITimeoutError, theirs.ModelTimeoutError),
            True,
        ),
        (ours.BudgetExceeded("a", "tokens", 10, 8, 5), (openai.RateLimitError,), False),
        (ours.SyscallCancelled("killed"), (openai.APIStatusError,), False),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_a_substituted_model_is_the_kernels_openais_and_langchains(
    error: ours.KernelError, others: tuple[type[Exception], ...], is_retryable: bool
) -> None:
    with pytest.raises(type(error)) as caught, translated_for_openai():
        raise error

    assert all(isinstance(caught.value, other) for other in others)
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "is_retryable") is is_retryable  # noqa: B009 - of some kinds
