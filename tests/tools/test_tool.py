"""Tools made from functions: their schemas, and the declarations that are refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, TypedDict

import pytest

from aios_core import InvalidRequest, Rate, ToolContext, tool
from aios_core.tools.signature import schema_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


class Options(TypedDict, total=False):
    depth: int


def test_a_function_becomes_a_tool_with_its_schema() -> None:
    @tool
    def find(text: str, limit: int = 10, *, exact: bool = False) -> list[str]:
        """Find a text.

        Looks everywhere.

        Args:
            text: what to
                look for.
            limit (int): at most that many.
            exact: no near ones.

        Returns:
            What was found.
        """
        return [text] * limit if exact else []

    assert find.name == "find"
    assert find.description == "Find a text.\n\nLooks everywhere."
    assert find.parameters == {
        "type": "object",
        "properties": {
            "text": {"description": "what to look for.", "type": "string"},
            "limit": {"description": "at most that many.", "type": "integer", "default": 10},
            "exact": {"description": "no near ones.", "type": "boolean", "default": False},
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    assert find.function("a", 2, exact=True) == ["a", "a"]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (Any, {}),
        (float, {"type": "number"}),
        (int | None, {"type": ["integer", "null"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (dict, {"type": "object"}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Colour, {"enum": ["red", "blue"]}),
        (list[int] | str, {"anyOf": [schema_of(list[int], ""), {"type": "string"}]}),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
        (Annotated[int, {"minimum": 1}], {"type": "integer", "minimum": 1}),
        (
            Point,
            {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
                "required": ["x"],
                "additionalProperties": False,
            },
        ),
        (
            Options,
            {
                "type": "object",
                "properties": {"depth": {"type": "integer"}},
                "required": [],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_annotations_become_json_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of(hint, "here") == schema


def test_an_annotation_without_a_json_counterpart_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="'when': annotation"):

        @tool
        def wait(when: complex) -> None:
            """Cannot be."""


def test_the_context_is_no_argument() -> None:
    @tool
    def whoami(context: ToolContext) -> str:
        """Return who calls."""
        return context.caller

    assert whoami.parameters["properties"] == {}
    assert whoami.context_name == "context"


def test_a_function_that_takes_anything_has_an_open_schema() -> None:
    @tool
    def echo(**anything: Any) -> Any:
        """Return the text."""
        return anything

    assert echo.parameters["additionalProperties"] is True


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"name": "no spaces"}, "tool name 'no spaces'"),
        ({"version": "new"}, "version 'new'"),
        ({"retries": 1}, "allowed only with read_only or idempotent"),
        ({"read_only": True, "irreversible": "pays"}, "read_only and irreversible"),
        ({"parallel": 0}, "parallel 0"),
        ({"timeout_s": 0}, "timeout_s 0"),
        ({"isolation": "jail"}, "isolation 'jail'"),
        ({"parameters": {"type": "string"}}, "of another type than object"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    declared: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        tool(**{"name": "some", **declared})(lambda: None)


@pytest.mark.parametrize(
    "declared",
    [
        {"name": 5},
        {"description": 5},
        {"version": 1},
        {"retries": "1", "read_only": True},
        {"parallel": "many"},
        {"timeout_s": "long"},
        {"parameters": ["a"]},
    ],
    ids=repr,
)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(declared: dict[str, Any]) -> None:
    (key,) = {*declared} - {"read_only"}
    with pytest.raises(InvalidRequest, match=f"a tool's {key}: got"):
        tool(**declared)(lambda: None)


def test_a_rate_allows_something() -> None:
    for calls, per_s in (
        (0, 1),
        (0.5, 1),
        ("5", 1),
        (None, 1),
        (1, 0),
        (1, "1"),
        (1, float("nan")),
    ):
        with pytest.raises(InvalidRequest, match=r"rate\.(calls|per_s)"):
            Rate(calls, per_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [True, 5, [], "text", int, partial(len)], ids=repr)
def test_what_is_no_function_of_a_name_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidRequest):
        tool(bad)


def test_the_defaults_of_a_tool_assume_the_worst() -> None:
    @tool
    def silent() -> None:
        """Do nothing."""

    assert not silent.read_only
    assert not silent.is_repeatable
    assert not silent.trusted
