"""Family 3: two to four calls for one request, one after the other or side by side.

The rule that the model can see: what needs the result before it, or is asked
for with "then", is called after it; what is only joined by "and" is called at
once. The last answer is the brief form of what would be answered after each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from models.tiny.data.dialogue import Call, Dialogue, Turn, calls, result, says, user
from models.tiny.data.offers import Offer, offer, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import error, failed
from models.tiny.data.skills import BY_NAME, SKILLS, Request, Skill, dress

SOURCES: Final = tuple(
    BY_NAME[name]
    for name in ("calculator", "clock", "weather", "lookup", "search", "read_file", "recall")
)
SINKS: Final = tuple(
    BY_NAME[name] for name in ("save_note", "send_message", "write_file", "remember")
)
_THEN: Final = (" and ", ", then ", " and then ", ", and ", ". Then ")
_REFERENCES: Final = ("it", "the result", "that", "the answer")
_FACTORS: Final = (("multiply", "by", "*"), ("divide", "by", "/"), ("increase", "by", "+"))


def chain(pool: Pool, num_calls: int | None = None) -> Dialogue:
    """A source, then what is done with its result."""
    count = num_calls or pool.pick((2, 3, 3, 4, 4))
    source, is_number, sinks = _plan(pool, count)
    wanted = [source, *([BY_NAME["calculator"]] if is_number else []), *sinks]
    found = offer(pool, wanted, 4)
    turns = _chained(pool, found, source, sinks, is_number=is_number)
    return Dialogue("chain", tuple(turns), tools_of(found), system_prompt(pool))


def _plan(pool: Pool, count: int) -> tuple[Skill, bool, list[Skill]]:
    """A source, whether one calculates with its result, and what takes the result then."""
    source = pool.pick(SOURCES)
    is_number = source.name in {"lookup", "recall"} and pool.chance(0.35)
    return source, is_number, pool.rng.sample(SINKS, count - 1 - is_number)


def chained_within(pool: Pool, found: Offer) -> list[Turn]:
    """A chain of tools that are offered already. There are none if these cannot be chained."""
    source, is_number, sinks = _plan(pool, pool.pick((2, 2, 2, 3)))
    needed = {source.name, *(sink.name for sink in sinks), *(("calculator",) if is_number else ())}
    if not needed <= set(found):
        return []
    return _chained(pool, found, source, sinks, is_number=is_number)


def _chained(
    pool: Pool, found: Offer, source: Skill, sinks: Sequence[Skill], *, is_number: bool
) -> list[Turn]:
    first = _wished(pool, found, source)
    said, steps = first.text, [first]
    last = first.result
    if is_number:
        last = pool.number(4)
        steps[0] = first = _with_result(source, first, last)
        text, step = _calculated(pool, found, last)
        said += pool.pick(_THEN) + text
        steps.append(step)
        last = step.result
    for sink in sinks:
        step = _given(pool, found, sink, last)
        said += (pool.pick(_THEN) if sink is sinks[0] else " and ") + step.text
        steps.append(step)
    return _one_by_one(pool, dress(pool, said), steps)


def sequence(pool: Pool) -> Dialogue:
    """Two or three things that have nothing to do with each other, one after the other."""
    wanted = pool.rng.sample(SKILLS, pool.pick((2, 2, 3)))
    found = offer(pool, wanted, 4)
    steps = [_wished(pool, found, skill) for skill in wanted]
    then = pool.pick((", then ", " and then ", ". Then "))
    text = dress(pool, then.join(step.text for step in steps))
    turns = _one_by_one(pool, text, steps)
    return Dialogue("chain", tuple(turns), tools_of(found), system_prompt(pool))


def parallel(pool: Pool, num_calls: int | None = None) -> Dialogue:
    """Two to four calls in one turn: of one tool, or of several."""
    count = num_calls or pool.pick((2, 2, 2, 3, 4))
    if pool.chance(0.5):
        skill = pool.pick([skill for skill in SKILLS if skill.params])
        found = offer(pool, [skill], 4)
        steps = [_wished(pool, found, skill) for _ in range(count)]
    else:
        wanted = pool.rng.sample(SKILLS, min(count, 3))
        found = offer(pool, wanted, 4)
        steps = [_wished(pool, found, skill) for skill in wanted]
    turns = _at_once(pool, steps)
    return Dialogue("parallel", tuple(turns), tools_of(found), system_prompt(pool))


def parallel_within(pool: Pool, found: Offer) -> list[Turn]:
    """Two calls at once of tools that are offered already."""
    skills = [skill for skill, _ in found.values()]
    return _at_once(pool, [_wished(pool, found, pool.pick(skills)) for _ in range(2)])


def _at_once(pool: Pool, steps: Sequence[Request]) -> list[Turn]:
    texts = [step.text for step in steps]
    text = ", ".join(texts[:-1]) + " and " + texts[-1]
    return [
        user(dress(pool, text)),
        calls(*(step.call for step in steps)),
        *(result(step.result) for step in steps),
        says(" ".join(step.answer for step in steps)),
    ]


def cities(pool: Pool) -> Dialogue:
    """Side by side, asked for in one breath: the weather in A and B."""
    skill = BY_NAME[pool.pick(("weather", "lookup", "recall"))]
    found = offer(pool, [skill], 4)
    values = [skill.values(pool) for _ in range(pool.pick((2, 2, 3)))]
    said = [value[0][0] for value in values]
    joined = ", ".join(said[:-1]) + " and " + said[-1]
    steps = [
        skill.request(pool, found[skill.name][1], "", [meant for _, meant in value])
        for value in values
    ]
    text = dress(pool, pool.pick(skill.phrases[:3]).format(joined))
    turns = [
        user(text),
        calls(*(step.call for step in steps)),
        *(result(step.result) for step in steps),
        says(" ".join(step.answer for step in steps)),
    ]
    return Dialogue("parallel", tuple(turns), tools_of(found), system_prompt(pool))


def _wished(pool: Pool, found: Offer, skill: Skill) -> Request:
    values = skill.values(pool)
    text = skill.wish.format(*(said for said, _ in values))
    return skill.request(pool, found[skill.name][1], text, [meant for _, meant in values])


def _given(pool: Pool, found: Offer, skill: Skill, value: str) -> Request:
    """The skill asked for with the result before it."""
    own = [meant for _, meant in skill.values(pool)][:-1]
    text = skill.given.format(*own, r=pool.pick(_REFERENCES))
    made = skill.request(pool, found[skill.name][1], text, [*own, value])
    return replace(made, answer=skill.brief or made.answer)


def _calculated(pool: Pool, found: Offer, value: str) -> tuple[str, Request]:
    verb, by, sign = pool.pick(_FACTORS)
    factor = pool.number(2)
    skill, tool = found["calculator"]
    text = f"{verb} {pool.pick(_REFERENCES)} {by} {factor}"
    return text, skill.request(pool, tool, text, [f"{value} {sign} {factor}"])


def _with_result(skill: Skill, request: Request, value: str) -> Request:
    answer = skill.answer.format(*request.call.arguments.values(), r=value)
    return Request(request.text, Call(request.call.name, request.call.arguments), value, answer)


def _one_by_one(pool: Pool, text: str, steps: Sequence[Request]) -> list[Turn]:
    turns = [user(text)]
    fails_at = pool.rng.randrange(len(steps)) if pool.chance(0.06) else None
    for index, step in enumerate(steps):
        turns.append(calls(step.call))
        if index == fails_at:
            what = error(pool)
            return [*turns, result(f"error: {what}"), says(failed(what))]
        turns.append(result(step.result))
    return [*turns, says(" ".join(step.answer for step in steps))]
