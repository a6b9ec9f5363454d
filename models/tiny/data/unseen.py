"""Family 4: tools never seen before, to be chosen by their description.

Verbs, nouns, names and parameters are drawn again for every dialogue; those of
the evaluation are none of the training's. Some of the other tools share the
verb or the noun of the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.tiny.data.dialogue import Call, Dialogue, Param, Tool, Turn, calls, says, user
from models.tiny.data.offers import offer, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import NO_TOOL, exchange
from models.tiny.data.skills import Request, described_as, distinct, dress

_DESCRIBED = (
    "{v} a {n}.", "{v} the {n}.", "{v} {n}", "{v} a {n} for the user.", "{V}s a {n}.",
    "{V}s the {n} that is given.", "{v} one {n} and return the {m}.", "Use this to {v} a {n}.",
)  # fmt: skip
_WITHOUT = (
    "{v} the {n}",
    "{v} a {n}",
    "can you {v} the {n}?",
    "I want to {v} a {n}",
    "{v} {n} now",
)
_ONE = (
    "{v} the {n} {0}", "{v} {n} {0}", "can you {v} the {n} {0}?", "I want to {v} the {n} {0}",
    "{v} a {n} with {p0} {0}", "{v} the {n}: {0}", "{v} a {n} called {0}",
)  # fmt: skip
_TWO = (
    "{v} the {n} {0} with {p1} {1}", "{v} a {n} with {p0} {0} and {p1} {1}",
    "{v} {n} {0}, {p1} {1}", "can you {v} the {n} {0}? The {p1} is {1}.",
)  # fmt: skip

_OPAQUE = 0.25  # of the names have no meaning


@dataclass(frozen=True, slots=True)
class _Made:
    tool: Tool
    verb: str
    noun: str


def unseen(
    pool: Pool, num_tools: int | None = None, *, known_share: float = 0.25, opaque: float = _OPAQUE
) -> Dialogue:
    """One call of one of the tools. `opaque`: the share of the names without meaning."""
    made = _tools(pool, num_tools or pool.pick((1, 2, 3, 4, 5, 5)), opaque=opaque)
    request = _ask(pool, made[0])
    tools = [one.tool for one in made]
    if num_tools is None and pool.chance(known_share):
        tools += tools_of(offer(pool, [], 3))
    pool.rng.shuffle(tools)
    turns = exchange(pool, request, 0.04)
    return Dialogue("unseen", tuple(turns), tuple(tools), system_prompt(pool))


def unseen_history(pool: Pool, *, opaque: float = _OPAQUE) -> Dialogue:
    """Two to five requests about the same tools; now and then about none of them.

    Many of the tools are relatives, so that both the verb and the noun have to be heeded.
    """
    count = pool.pick((2, 3, 4, 5, 5, 5))
    made = _tools(pool, count + 2, pool.pick((0.2, 0.6)), opaque=opaque, mutual=True)
    pool.rng.shuffle(made)
    tools = [one.tool for one in made[:count]]
    pool.rng.shuffle(tools)
    turns: list[Turn] = []
    for _ in range(pool.pick((2, 3, 4, 5))):
        if pool.chance(0.25):
            turns += [user(_ask(pool, pool.pick(made[count:])).text), says(NO_TOOL)]
        else:
            turns += exchange(pool, _ask(pool, pool.pick(made[:count])), 0.03)
    return Dialogue("unseen", tuple(turns), tuple(tools), system_prompt(pool))


def drill(pool: Pool, *, bare: bool = False) -> Dialogue:
    """Requests in a few words for each of the tools, and for some that are not there.

    As many choices as fit into few tokens. `bare`: the tools have no parameters, and the
    next request comes at once.
    """
    count = pool.pick((2, 3, 4, 5))
    kinship, opaque = (0.1, 0.5) if bare else (0.3, _OPAQUE)
    made = _tools(pool, count + pool.pick((1, 2)), kinship, bare=bare, opaque=opaque, mutual=bare)
    offered = made[:count]
    tools = [one.tool for one in offered]
    pool.rng.shuffle(tools)
    pool.rng.shuffle(made)
    turns: list[Turn] = []
    for one in made:
        request = _ask(pool, one, brief=True)
        new = exchange(pool, request, 0.0)
        if one not in offered:
            new = [user(request.text), says(NO_TOOL)]
        turns += new[:2] if bare else new
    return Dialogue("unseen", tuple(turns), tuple(tools))


def routing(
    pool: Pool, lengths: Sequence[int] = (1, 2, 3, 3, 3), *, kinship: float = 0.0
) -> Dialogue:
    """Make tools with meaningless names, which can be found only through their descriptions.

    `lengths`, one of which is drawn: 1, the noun alone decides; 2, verb and noun; 3, as usual.
    """
    count = pool.pick((2, 3, 4, 5))
    verbs, nouns = distinct(pool.verb, count), distinct(pool.noun, count)
    names = distinct(pool.identifier, count)
    length = pool.pick(lengths)
    if length > 1:
        _relate(pool, verbs, nouns, kinship)
    made = []
    for verb, noun, name in zip(verbs, nouns, names, strict=True):
        described = (noun, f"{verb} {noun}", pool.pick(_DESCRIBED))[length - 1]
        text = described.format(v=verb, V=verb, n=noun, m=noun)
        if pool.chance(0.5):
            text = text[0].upper() + text[1:]
        made.append(_Made(Tool(name, text), verb, noun))
    turns: list[Turn] = []
    for _ in range(count + 3):
        one = pool.pick(made)
        phrase = ("{n}", "{v} {n}", pool.pick(_WITHOUT))[length - 1]
        text = phrase.format(v=one.verb, n=one.noun)
        turns += [user(text), calls(Call(one.tool.name, {}))]
    return Dialogue("unseen", tuple(turns), tuple(one.tool for one in made))


def unfit(pool: Pool, num_tools: int | None = None) -> Dialogue:
    """None of the tools fits: the verb or the noun may be there, both are not."""
    made = _tools(pool, 1 + (num_tools or pool.pick((1, 2, 3, 4, 5, 5))), kinship=0.15)
    request = _ask(pool, made[0])
    tools = [one.tool for one in made[1:]]
    return Dialogue("unfit", (user(request.text), says(NO_TOOL)), tuple(tools), system_prompt(pool))


def _tools(
    pool: Pool,
    count: int,
    kinship: float = 0.3,
    *,
    bare: bool = False,
    opaque: float = _OPAQUE,
    mutual: bool = False,
) -> list[_Made]:
    verbs, nouns = distinct(pool.verb, count), distinct(pool.noun, count)
    _relate(pool, verbs, nouns, kinship, mutual=mutual)
    found: list[_Made] = []
    for verb, noun in zip(verbs, nouns, strict=True):
        tool = _tool(pool, verb, noun, opaque, bare=bare)
        while any(tool.name == other.tool.name for other in found):
            tool = _tool(pool, verb, noun, opaque, bare=bare)
        found.append(_Made(tool, verb, noun))
    return found


def _relate(
    pool: Pool, verbs: list[str], nouns: list[str], kinship: float, *, mutual: bool = True
) -> None:
    """Let such a share have the verb or the noun of the first, or, `mutual`, of any before it."""
    for index in range(1, len(verbs)):
        if pool.chance(kinship):
            shared = verbs if pool.chance(0.5) else nouns
            shared[index] = pool.pick(shared[:index]) if mutual else shared[0]


def _tool(pool: Pool, verb: str, noun: str, opaque: float, *, bare: bool = False) -> Tool:
    kind = pool.rng.random()
    if pool.chance(opaque):
        name = pool.identifier()  # only the description gives its purpose
    elif kind < 0.6:
        name = f"{verb}_{noun}"
    elif kind < 0.74:
        name = f"{verb}{noun.capitalize()}"
    elif kind < 0.87:
        name = f"{noun}_{verb}"
    else:
        name = verb if pool.chance(0.5) else noun
    described = pool.pick(_DESCRIBED).format(v=verb, V=verb, n=noun, m=pool.noun())
    if pool.chance(0.7):
        described = described[0].upper() + described[1:]
    names = distinct(pool.identifier, 0 if bare else pool.pick((0, 1, 1, 1, 1, 2, 2)))
    params = tuple(_param(pool, param) for param in names)
    return Tool(name, described_as(pool, described, name, params), params)


def _param(pool: Pool, name: str) -> Param:
    return Param(name, "integer" if pool.chance(0.15) else "string")


def _ask(pool: Pool, one: _Made, *, brief: bool = False) -> Request:
    params = one.tool.params
    values: list[Any] = [
        pool.word() if brief and param.type == "string" else _value(pool, param) for param in params
    ]
    phrase = pool.pick((_WITHOUT, _ONE, _TWO)[len(params)])
    names = {f"p{index}": param.name.replace("_", " ") for index, param in enumerate(params)}
    text = phrase.format(*values, v=one.verb, n=one.noun, **names)
    got = pool.text(1 if brief else 5)
    arguments = {param.name: value for param, value in zip(params, values, strict=True)}
    return Request(
        dress(pool, text, one.tool), Call(one.tool.name, arguments), got, f"Done: {got}."
    )


def _value(pool: Pool, param: Param) -> str | int:
    if param.type == "integer":
        return int(pool.number(4))
    kind = pool.rng.random()
    if kind < 0.4:
        return pool.word()
    return pool.key() if kind < 0.7 else pool.text(3) if kind < 0.9 else pool.path()
