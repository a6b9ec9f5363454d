"""Arguments that do not fit are coerced if that is safe, or refused with a text for the model."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from aios_core import InvalidArguments, InvalidRequest
from aios_core.tools.validation import ArgumentSchema

ORDER = {
    "type": "object",
    "properties": {
        "item": {"type": "string", "description": "what to buy"},
        "number": {"type": "integer", "minimum": 1, "maximum": 100},
        "price": {"type": "number"},
        "gift": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "size": {"enum": ["S", "M", "L"]},
        "colour": {"type": "string", "default": "red"},
        "parts": {
            "type": "array",
            "items": {"type": "object", "properties": {"price": {"type": "number"}}},
        },
        "note": {"type": ["string", "null"]},
    },
    "required": ["item"],
    "additionalProperties": False,
}


def checked(arguments: dict[str, Any], *, repairs: bool = True, schema: Any = ORDER) -> Any:
    return ArgumentSchema("order", schema).validate(arguments, repairs=repairs)


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        ({"number": "3"}, {"number": 3}),
        ({"number": " 3 "}, {"number": 3}),
        ({"number": 3.0}, {"number": 3}),
        ({"price": "1.5"}, {"price": 1.5}),
        ({"gift": "true"}, {"gift": True}),
        ({"gift": "False"}, {"gift": False}),
        ({"tags": "new"}, {"tags": ["new"]}),
        ({"tags": '["a", "b"]'}, {"tags": ["a", "b"]}),
        ({"number": None}, {}),
        ({"parts": {"price": "2"}}, {"parts": [{"price": 2}]}),
        ({"note": None}, {"note": None}),
    ],
)
def test_harmless_mistakes_are_mended(given: dict[str, Any], mended: dict[str, Any]) -> None:
    result = checked({"item": "pen", **given})

    assert result == {"item": "pen", "colour": "red", **mended}
    assert [type(one) for one in result.values()] == [
        type({"item": "pen", "colour": "red", **mended}[name]) for name in result
    ]


@pytest.mark.parametrize("given", [{"number": "3"}, {"gift": "true"}, {"tags": "new"}])
def test_nothing_is_mended_if_the_tool_does_not_allow_it(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArguments):
        checked({"item": "pen", **given}, repairs=False)


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"number": "many"}, "number", 'got "many", expected a whole number'),
        ({"number": "1e999"}, "number", "expected a whole number"),
        ({"number": "NaN"}, "number", "expected a whole number"),
        ({"number": 1.5}, "number", "got 1.5, expected a whole number"),
        ({"number": 0}, "number", "got 0, expected at least 1"),
        ({"number": "500"}, "number", "got 500, expected at most 100"),
        ({"gift": "yes"}, "gift", 'got "yes", expected true or false'),
        ({"size": "XL"}, "size", 'expected one of ["S", "M", "L"]'),
        ({"tags": ["a", 1]}, "tags[1]", "got 1, expected a text"),
        ({"parts": [{}, {"price": []}]}, "parts[1].price", "got [], expected a number"),
        ({"nuber": 1}, "nuber", "is unknown; did you mean 'number'?"),
        ({"item": None}, "item", "got null, expected a text (what to buy)"),
    ],
)
def test_a_fault_names_the_field_what_came_and_what_is_expected(
    given: dict[str, Any], field: str, told: str
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        checked({"item": "pen", **given})

    assert told in caught.value.faults[field]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidArguments) as caught:
        checked({"number": "x", "gift": "y"})

    assert sorted(caught.value.faults) == ["gift", "item", "number"]
    assert caught.value.faults["item"] == "is missing; expected a text (what to buy)"


def test_the_callers_arguments_are_left_as_they_are() -> None:
    given = {"item": "pen", "tags": "a", "parts": [{"price": "1"}]}
    checked(given)
    assert given == {"item": "pen", "tags": "a", "parts": [{"price": "1"}]}


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not a JSON schema"):
        ArgumentSchema("bad", {"type": "object", "properties": {"x": {"type": "number?"}}})


def test_a_schema_that_refers_elsewhere_is_refused_and_nothing_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(InvalidRequest, match="refers to other documents"):
        ArgumentSchema("bad", {"properties": {"x": {"$ref": "https://example.org/schema"}}})


def test_references_within_a_schema_work() -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/count"}},
        "$defs": {"count": {"type": "integer"}},
    }
    assert checked({"x": 1}, schema=schema) == {"x": 1}
    with pytest.raises(InvalidArguments):
        checked({"x": "one"}, schema=schema)


def test_a_reference_that_leads_nowhere_is_a_fault_and_no_crash() -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/none"}}}
    with pytest.raises(InvalidArguments, match="cannot be checked"):
        checked({"x": 1}, schema=schema)


@pytest.mark.parametrize(
    ("part", "is_quick"),
    [
        ({"type": "string"}, True),
        ({"type": "array", "items": {"type": "integer"}}, True),
        ({"type": "string", "pattern": "(a+)+$"}, False),
        ({"anyOf": [{"type": "string"}]}, True),
        ({"anyOf": [{"type": "string", "pattern": "a"}]}, False),
        ({"type": "array", "items": {"pattern": "a"}}, False),
        ({"additionalProperties": {"patternProperties": {"a": {}}}}, False),
        ({"$ref": "#"}, False),
        ({"type": "array", "uniqueItems": True}, False),
        ({"enum": list(range(10_000))}, False),
    ],
)
def test_only_schemas_that_are_quick_to_check_count_as_quick(
    part: dict[str, Any], is_quick: bool
) -> None:
    schema = ArgumentSchema("some", {"type": "object", "properties": {"x": part}})
    assert schema.is_quick({"x": "a"}) is is_quick


@pytest.mark.parametrize(
    ("schema", "arguments", "is_quick"),
    [
        ({"items": {"type": "integer"}}, {"x": [1] * 10}, True),
        ({"items": {"type": "integer"}}, {"x": [1] * 10_000}, False),
        ({"type": "string"}, {"x": "a" * 100_000}, False),
    ],
)
def test_only_small_arguments_are_quick_to_check(
    schema: dict[str, Any], arguments: dict[str, Any], is_quick: bool
) -> None:
    whole = ArgumentSchema("some", {"type": "object", "properties": {"x": schema}})
    assert whole.is_quick(arguments) is is_quick


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"properties": {"x": schema}}
    return schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (nested(5_000), "nested deeper than 100 levels"),
        ({"properties": {"x": {"enum": list(range(100_000))}}}, "too large"),
        ({"properties": {"x": {"description": "a" * 10_000_000}}}, "too large"),
        ({"properties": {"x": {"pattern": "(" * 5_000 + ")" * 5_000}}}, "tool 'bad'"),
    ],
    ids=["deep", "enum", "text", "pattern"],
)
def test_a_schema_that_is_too_large_is_refused_with_what_is_allowed(
    schema: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        ArgumentSchema("bad", schema)


def test_a_large_enumeration_of_what_cannot_be_sorted_is_taken() -> None:
    draft_4 = "http://json-schema.org/draft-04/schema#"  # compares all of them with one another
    values = [{"n": number} for number in range(10_000)]
    schema = ArgumentSchema("some", {"$schema": draft_4, "properties": {"x": {"enum": values}}})
    assert schema.validate({"x": {"n": 9_999}}, repairs=False) == {"x": {"n": 9_999}}
