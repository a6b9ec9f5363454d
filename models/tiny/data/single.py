"""Family 1: one request, one call of a tool known by name, an answer from its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from models.tiny.data.dialogue import Dialogue, Turn, calls, result, says, user
from models.tiny.data.offers import Offer, offer, skills_of, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.skills import BY_NAME, NUMERIC, SIX, SKILLS, Request, Skill, dress

NO_TOOL = "I have no tool for that."


def failed(error: str) -> str:
    return f"The tool failed: {error}."


def error(pool: Pool) -> str:
    """Draw the message of a tool that failed, without the word for it."""
    kind = pool.rng.random()
    if kind < 0.6:
        return pool.text(5)
    if kind < 0.75:
        return f"no such {pool.noun()}: {pool.word()}"
    if kind < 0.9:
        return f"{pool.word().capitalize()}Error: {pool.text(4)}"
    return pool.pick(("timeout", "not found", "access denied", "division by zero"))


def exchange(pool: Pool, request: Request, error_share: float = 0.08) -> list[Turn]:
    """A request, the call, its result and the answer; or the tool's error, relayed."""
    got, answer = request.result, request.answer
    if pool.chance(error_share):
        what = error(pool)
        got, answer = f"{pool.pick(('error', 'Error', 'error'))}: {what}", failed(what)
    return [user(request.text), calls(request.call), result(got), says(answer)]


def asked(pool: Pool, found: Offer, skill: Skill) -> Request:
    return skill.ask(pool, found[skill.name][1], skills_of(found))


def a_skill(pool: Pool) -> Skill:
    return pool.pick(NUMERIC) if pool.chance(0.06) else pool.pick(SKILLS)


def single(
    pool: Pool,
    *,
    num_tools: int | None = None,
    skills: tuple[Skill, ...] | None = None,
    plain: float = 0.6,
    novel: float = 0.12,
    error_share: float = 0.08,
) -> Dialogue:
    skill = pool.pick(skills) if skills else a_skill(pool)
    found = offer(
        pool, [skill], num_tools or 6, least=num_tools or 0,
        skills=skills or SKILLS, plain=plain, novel=novel,
    )  # fmt: skip
    turns = exchange(pool, asked(pool, found, skill), error_share)
    return Dialogue("single", tuple(turns), tools_of(found), system_prompt(pool))


def ten_tools(pool: Pool) -> Dialogue:
    return single(pool, num_tools=10, plain=1.0, novel=0.0, error_share=0.0)


def six_tools(pool: Pool) -> Dialogue:
    """As the first trial was measured: six tools, one to four of them offered."""
    six = tuple(BY_NAME[name] for name in SIX)
    skill = pool.pick(six)
    found = offer(pool, [skill], 4, skills=six, plain=0.3, novel=0.0)
    turns = exchange(pool, asked(pool, found, skill), 0.0)
    return Dialogue("six", tuple(turns), tools_of(found))


def failing(pool: Pool) -> Dialogue:
    return single(pool, error_share=1.0)


def missing(pool: Pool, found: Offer) -> list[Turn]:
    """A request that none of the tools serves."""
    absent = [
        skill
        for skill in SKILLS
        if skill.name not in found and not {*skill.rivals, *_CLOSE.get(skill.name, ())} & set(found)
    ]
    skill = pool.pick(absent)
    values = skill.values(pool)
    text = pool.pick(skill.phrases).format(*(said for said, _ in values))
    return [user(dress(pool, text)), says(NO_TOOL)]


# Tools that could be meant as well, where the better one is not offered.
_CLOSE: Final[Mapping[str, Sequence[str]]] = {
    "calculator": (*(skill.name for skill in NUMERIC), "python"),
    "read_file": ("shell",),
    "write_file": ("shell",),
    "list_files": ("shell",),
    "recall": ("lookup",),
    "remember": ("save_note",),
    "save_note": ("remember",),
    "search": ("lookup",),
    "fetch": ("search",),
}


def refusal(pool: Pool) -> Dialogue:
    """A request that none of the tools serves, or there is none."""
    found = {} if pool.chance(0.1) else offer(pool, [], 6)
    turns = missing(pool, found)
    return Dialogue("refusal", tuple(turns), tools_of(found), system_prompt(pool))
