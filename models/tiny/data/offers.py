"""Which tools are offered together. No two have one name."""

from __future__ import annotations

from collections.abc import Sequence

from models.tiny.data.dialogue import Tool
from models.tiny.data.pools import Pool
from models.tiny.data.skills import NUMERIC, SKILLS, Skill

Offer = dict[str, tuple[Skill, Tool]]  # by the name of the skill

_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful AI assistant. Use the tools to answer.",
    "Answer briefly.",
    "You are an agent. Use a tool whenever one fits.",
    "You have access to tools. Call them when needed.",
)


def system_prompt(pool: Pool) -> str:
    """Draw a system prompt: often none, else a usual one, or one with the agent's role."""
    kind = pool.rng.random()
    if kind < 0.75:
        return ""
    if kind < 0.87:
        return pool.pick(_SYSTEMS)
    if kind < 0.94:
        return f"You are {pool.person()}, an agent that can {pool.verb()} the {pool.noun()}."
    return f"{pool.pick(_SYSTEMS)} {pool.text(12).capitalize()}. {pool.text(8).capitalize()}."


def offer(
    pool: Pool,
    wanted: Sequence[Skill],
    most: int = 10,
    *,
    least: int = 0,
    without: Sequence[Skill] = (),
    skills: Sequence[Skill] = SKILLS,
    plain: float = 0.6,
    novel: float = 0.12,
) -> Offer:
    """Tools for the skills that are wanted, and others, in any order."""
    count = max(len(wanted), least, min(pool.rng.randint(1, most), pool.rng.randint(1, most)))
    others = [skill for skill in skills if skill not in wanted and skill not in without]
    pool.rng.shuffle(others)
    if any(skill in NUMERIC for skill in (*wanted, *without)):
        others = [skill for skill in (*NUMERIC, *others) if skill.name != "calculator"]
        others = [skill for skill in others if skill not in wanted and skill not in without]
        others = others[:2] + others[len(NUMERIC) :]
    chosen = [*wanted, *others[: count - len(wanted)]]
    pool.rng.shuffle(chosen)
    found: Offer = {}
    names: set[str] = set()
    for skill in chosen:
        tool = skill.offer(pool, plain, novel)
        while tool.name in names:
            tool = skill.offer(pool, 0.0, 0.9)
        names.add(tool.name)
        found[skill.name] = (skill, tool)
    return found


def tools_of(found: Offer) -> tuple[Tool, ...]:
    return tuple(tool for _, tool in found.values())


def skills_of(found: Offer) -> tuple[Skill, ...]:
    return tuple(skill for skill, _ in found.values())
