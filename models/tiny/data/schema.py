"""Family 5: filling a given JSON schema from a text, as JSON or as the call of a tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from models.tiny.data.dialogue import Call, Dialogue, Param, Tool, calls, says, user
from models.tiny.data.pools import Pool

_COLOURS: Final = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "orange", "purple", "grey", "pink",
)  # fmt: skip
# The field, its type, its name in a sentence, its value.
_FIELDS: Final[tuple[tuple[str, str, str, Callable[[Pool], Any]], ...]] = (
    ("age", "integer", "is {} years old", lambda pool: int(pool.number(2))),
    ("city", "string", "lives in {}", Pool.city),
    ("email", "string", "has the email {}", lambda p: f"{p.invented()}@{p.word()}.com"),
    ("job", "string", "works as a {}", Pool.noun),
    ("color", "string", "likes {}", lambda pool: pool.pick(_COLOURS)),
    ("phone", "string", "has the phone number {}", lambda pool: pool.number(5)),
    ("price", "number", "costs {}", lambda p: float(f"{int(p.number(3))}.{p.pick('123456789')}")),
    ("count", "integer", "has {} pieces", lambda pool: int(pool.number(3))),
    ("date", "string", "starts on {}", Pool.date),
    ("friend", "string", "is a friend of {}", Pool.person),
    ("title", "string", "wrote {}", lambda pool: pool.text(3)),
)  # fmt: skip
_ENTITIES: Final = ("Person", "Record", "Contact", "Item", "Entry", "extract", "Info")


def schema(pool: Pool) -> Dialogue:
    chosen = pool.rng.sample(_FIELDS, pool.pick((1, 2, 2, 3)))
    name = pool.person()
    filled: dict[str, Any] = {"name": name}
    facts = []
    for field, _, said, make in chosen:
        filled[field] = make(pool)
        facts.append(said.format(filled[field]))
    text = f"{name} {' and '.join(facts)}." if pool.chance(0.7) else _listed(filled)
    types = {"name": "string"} | {field: kind for field, kind, _, _ in chosen}
    if pool.chance(0.4):
        items = list(types.items())
        pool.rng.shuffle(items)
        types = dict(items)
    filled = {field: filled[field] for field in types}
    return (
        _as_call(pool, text, types, filled)
        if pool.chance(0.5)
        else _as_json(pool, text, types, filled)
    )


def _listed(filled: dict[str, Any]) -> str:
    return ", ".join(f"{field}: {value}" for field, value in filled.items())


def _as_call(pool: Pool, text: str, types: dict[str, str], filled: dict[str, Any]) -> Dialogue:
    entity = pool.pick(_ENTITIES) if pool.chance(0.7) else pool.word().capitalize()
    described = pool.pick(
        (f"A {entity.lower()}.", f"Extract a {entity.lower()} from the text.", "")
    )
    tool = Tool(entity, described, tuple(Param(name, kind) for name, kind in types.items()))
    ask = pool.pick(("{}", "extract the data: {}", "Extract: {}", "fill this in: {}")).format(text)
    return Dialogue("schema", (user(ask), calls(Call(entity, filled))), (tool,))


def _as_json(pool: Pool, text: str, types: dict[str, str], filled: dict[str, Any]) -> Dialogue:
    properties = {name: {"type": kind} for name, kind in types.items()}
    wanted = {"type": "object", "properties": properties}
    strict = wanted | {"required": list(types), "additionalProperties": False}
    keys = ", ".join(types)
    answer = says(json.dumps(filled, ensure_ascii=False))
    if pool.chance(0.5):
        system = pool.pick(("Answer with JSON that fits this schema: {}", "JSON schema: {}"))
        told = system.format(json.dumps(wanted))
        return Dialogue("schema", (user(text), answer), (), told, strict)
    ask = pool.pick(
        ("Answer as JSON with the keys {}: {}", "extract {} as JSON: {}", "JSON with {}: {}")
    )
    return Dialogue("schema", (user(ask.format(keys, text)), answer), schema=strict)
