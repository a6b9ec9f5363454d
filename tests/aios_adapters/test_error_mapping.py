"""A kernel error is an instance of a framework's class too, where there is one."""

from __future__ import annotations

import pytest

from aios_adapters import ErrorMapping, export_lazily
from aios_core.errors import BudgetExceeded, InvalidRequest, NoSuchObject, Overloaded


class TheirsBusyError(Exception):
    """An error class of a framework."""


class TheirsWrongError(Exception):
    pass


NAMES = ErrorMapping(
    [(Overloaded, TheirsBusyError), (NoSuchObject, None), (InvalidRequest, TheirsWrongError)]
)


def test_an_error_is_caught_by_either_name_with_its_facts() -> None:
    error = Overloaded("queue", 5, 2.0)

    with pytest.raises(TheirsBusyError) as caught, NAMES.as_framework_error():
        raise error

    assert isinstance(caught.value, Overloaded)
    assert (str(caught.value), vars(caught.value)) == (str(error), vars(error))


def test_the_most_special_name_that_is_there_is_taken() -> None:
    with pytest.raises(TheirsWrongError) as caught, NAMES.as_framework_error():
        raise NoSuchObject("model", "x")

    assert isinstance(caught.value, NoSuchObject)


def test_an_error_without_another_name_and_one_that_has_it_already_pass_as_they_are() -> None:
    error = BudgetExceeded("agent", "tokens", 10, 8, 5)

    with pytest.raises(BudgetExceeded) as caught, NAMES.as_framework_error():
        raise error
    assert caught.value is error

    with (
        pytest.raises(TheirsBusyError) as once,
        NAMES.as_framework_error(),
        NAMES.as_framework_error(),
    ):
        raise Overloaded("queue", 5, 2.0)
    assert type(once.value).__mro__.count(TheirsBusyError) == 1


def test_a_name_whose_framework_is_missing_says_what_to_install() -> None:
    getter = export_lazily({"Client": "a_module_that_is_not_there"}, install="'x-aios[y]'")

    with pytest.raises(ImportError, match=r"pip install 'x-aios\[y\]'"):
        getter("Client")
    with pytest.raises(AttributeError, match="Other"):
        getter("Other")


def test_a_name_is_imported_when_it_is_used() -> None:
    assert export_lazily({"NoSuchObject": "aios_core.errors"}, install="x")("NoSuchObject") is (
        NoSuchObject
    )
