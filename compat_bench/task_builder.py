"""Make tasks of each kind, of skills that the tiny model has learned, with words new to it.

The words, names and numbers are those that `models.tiny.data` keeps for evaluation. The
promised results are true: code prints the promised text, and the promised document is the
nearest one. Equal seeds give equal drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from models.tiny.data.chains import chain, cities
from models.tiny.data.dialogue import (
    Call,
    Dialogue,
    Param,
    Tool,
    Turn,
    calls,
    result,
    says,
    user,
)
from models.tiny.data.offers import offer, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import asked, exchange, ten_tools
from models.tiny.data.skills import BY_NAME, SKILLS, Skill, distinct, dress
from models.tiny.data.talk import talk


@dataclass(frozen=True, slots=True)
class TaskDraft:
    """A right conversation, and what it is had with."""

    dialogue: Dialogue
    documents: tuple[str, ...] = ()  # of a retrieval: the right one, and others
    members: tuple[TeamMember, ...] = ()  # of a team


@dataclass(frozen=True, slots=True)
class TeamMember:
    """One whom the first agent of a team can hand over to."""

    name: str
    handover: Tool
    tools: tuple[Tool, ...]


def _talked(family: Callable[[Pool], Dialogue]) -> Callable[[Pool], TaskDraft]:
    return lambda pool: TaskDraft(family(pool))


def _memory(pool: Pool) -> TaskDraft:
    """A request, and then questions that only a memory of it answers."""
    skill, found = _offered(pool, pool.pick(SKILLS), 3)
    turns = exchange(pool, asked(pool, found, skill), 0.0)
    for _ in range(pool.pick((1, 1, 2))):
        again = pool.pick(("say that again", "what did you say?", "repeat that"))  # prose: ok
        turns += [user(dress(pool, again)), says(turns[-1].text)]
    return TaskDraft(Dialogue("memory", tuple(turns), tools_of(found)))


def _react(pool: Pool) -> TaskDraft:
    """Make a request for one tool. The driver describes the tools to the model as text."""
    skill, found = _offered(pool, pool.pick(SKILLS), 4)
    turns = exchange(pool, asked(pool, found, skill), 0.0)
    return TaskDraft(Dialogue("react", tuple(turns), tools_of(found)))


def _team(pool: Pool) -> TaskDraft:
    """A front desk with nothing but handovers; the one who takes over has the tools."""
    names = distinct(lambda: _identifier(pool), 2)
    chosen = names[0]
    found = [_offered(pool, pool.pick(SKILLS), 3) for _ in names]
    members = [
        TeamMember(name, Tool(f"transfer_to_{name}", f"Hands over to {name}."), tools_of(offered))
        for name, (_, offered) in zip(names, found, strict=True)
    ]
    ask = pool.pick(("transfer me to {}", "I want to talk to {}", "connect me with {}"))
    turns = [
        user(dress(pool, ask.format(chosen))),
        calls(Call(f"transfer_to_{chosen}", {})),
        result(f"Transferred to {chosen}, adopting the role of {chosen} immediately."),
        says(""),  # the turn ends there; the framework adds its own text
    ]
    skill, offered = found[0]
    turns += exchange(pool, asked(pool, offered, skill), 0.0)
    pool.rng.shuffle(members)
    tools = (*(member.handover for member in members), *tools_of(offered))
    return TaskDraft(Dialogue("team", tuple(turns), tools), members=tuple(members))


def _retrieval(pool: Pool) -> TaskDraft:
    """A search for what one of eight documents is about."""
    words = distinct(lambda: _plain_word(pool), 24)  # no word is in two documents
    texts = [" ".join(words[at : at + 3]) for at in range(0, len(words), 3)]
    topic = words[0]
    skill, found = _offered(pool, BY_NAME["search"], 3)
    request = skill.ask(pool, found["search"][1])
    ask = pool.pick(skill.phrases).format(topic)
    turns = (
        user(dress(pool, ask)),
        calls(Call(request.call.name, {"query": topic})),
        result(texts[0]),
        says(f"I found: {texts[0]}."),
    )
    return TaskDraft(Dialogue("retrieval", turns, tools_of(found)), _shuffled(pool, texts))


def _code(pool: Pool) -> TaskDraft:
    """Something to print, by `execute(language, code)`."""
    if pool.chance(0.5):
        first, second = (int(pool.number(3)) for _ in range(2))
        sign, word = pool.pick((("+", "plus"), ("-", "minus"), ("*", "times")))
        ask = pool.pick(("compute {}", "what is {}?", "calculate {}"))
        asking = ask.format(f"{first} {word} {second}")
        code = f"print({first} {sign} {second})"
        printed = str({"+": first + second, "-": first - second, "*": first * second}[sign])
    else:
        text = " ".join(_plain_word(pool) for _ in range(pool.rng.randint(1, 4)))
        ask = pool.pick(("print {}", "write a program that prints {}", "print {} in python"))
        asking, code, printed = ask.format(text), f'print("{text}")', text
    tool = Tool(
        "execute", "Executes code and returns the output.", (Param("language"), Param("code"))
    )
    turns: tuple[Turn, ...] = (
        user(dress(pool, asking)),
        calls(Call("execute", {"language": "python", "code": code})),
        result(printed),
        says(f"The output is: {printed}"),
    )
    return TaskDraft(Dialogue("execution", turns, (tool,)))


def _offered(pool: Pool, skill: Skill, most: int) -> tuple[Skill, dict[str, tuple[Skill, Tool]]]:
    """The skill and a few others, by the names that the model knows."""
    return skill, offer(pool, [skill], most, plain=1.0, novel=0.0)


def _plain_word(pool: Pool) -> str:
    """English, and of letters alone: what a word is to a search, too."""
    while not (word := pool.english()).isalpha():
        pass
    return word.lower()


def _identifier(pool: Pool) -> str:
    """A name that every framework lets an agent have."""
    while not ((name := pool.english()).isascii() and name.isidentifier()):
        pass
    return name


def _shuffled(pool: Pool, texts: list[str]) -> tuple[str, ...]:
    pool.rng.shuffle(texts)
    return tuple(texts)


#: What there is to do. The order is that of the tables.
MAKERS: Final[Mapping[str, Callable[[Pool], TaskDraft]]] = {
    "single tool": _talked(ten_tools),
    "tool as a syscall": _talked(ten_tools),
    "chain": _talked(lambda pool: chain(pool, 2)),
    "parallel tools": _talked(cities),
    "ReAct text": _react,
    "multi-agent chat": _team,
    "memory across turns": _memory,
    "retrieval": _retrieval,
    "code execution": _code,
    "streaming": _talked(ten_tools),
    "plain talk": _talked(talk),
}


def draft(kind: str, seed: int, number: int) -> TaskDraft:
    """The task of that number. Raises `KeyError` for a kind that is none."""
    return MAKERS[kind](Pool(f"compat/{kind}/{seed}/{number}", held_out=True))
