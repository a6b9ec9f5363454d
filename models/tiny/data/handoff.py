"""Family 5: handing over to another agent by name, as AutoGen's and LangGraph's swarms do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from models.tiny.data.dialogue import Call, Dialogue, Tool, Turn, calls, result, says, user
from models.tiny.data.offers import offer, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.skills import distinct, dress

_ASK: Final = (
    "transfer me to {a}", "I want to talk to {a}", "hand this over to {a}", "let {a} do this",
    "let the {a} agent do it", "give this to the {a} agent", "{a} should do this",
    "connect me with {a}", "ask {a} to take over",
)  # fmt: skip
_TOPIC: Final = (
    "I have a question about {t}",
    "I need help with {t}",
    "this is about {t}",
    "help me with my {t}",
)
_DESCRIBED: Final = (
    "Hands over to {a}.",
    "Ask {a} for help with {t}.",
    "Handles {t}.",
    "Handoff to {a}.",
    "Transfer to the {a} agent.",
)


def referral(pool: Pool) -> Dialogue:
    """One request after another, by what the agents handle: many choices in few tokens."""
    count = pool.pick((2, 3, 4))
    agents, topics = distinct(_agent(pool), count), distinct(pool.noun, count)
    prefix = _prefix(pool)
    tools = [
        Tool(f"{prefix}_{agent}", pool.pick(_DESCRIBED[1:3]).format(a=agent, t=topic))
        for agent, topic in zip(agents, topics, strict=True)
    ]
    turns: list[Turn] = []
    for _ in range(count + 2):
        at = pool.rng.randrange(count)
        asked = pool.pick(_TOPIC).format(t=topics[at])
        turns += [user(dress(pool, asked)), calls(Call(tools[at].name, {}))]
    return Dialogue("handover", tuple(turns), tuple(tools))


def handover(pool: Pool) -> Dialogue:
    agents = distinct(_agent(pool), pool.pick((1, 2, 2, 3)))
    topics = distinct(pool.noun, len(agents))
    by_topic = pool.chance(0.35)
    tools = []
    prefix = _prefix(pool)
    for agent, topic in zip(agents, topics, strict=True):
        described = pool.pick(_DESCRIBED[1:3] if by_topic else _DESCRIBED)
        tools.append(Tool(f"{prefix}_{agent}", described.format(a=agent, t=topic)))
    text = pool.pick(_TOPIC if by_topic else _ASK).format(a=agents[0], t=topics[0])
    name = tools[0].name
    if pool.chance(0.4):
        tools += tools_of(offer(pool, [], 3))
    pool.rng.shuffle(tools)
    got = pool.pick((
        "Transferred to {a}, adopting the role of {a} immediately.",
        "Successfully transferred to {a}", "ok", "{a} took over",
    )).format(a=agents[0])  # fmt: skip
    turns = (
        user(dress(pool, text)),
        calls(Call(name, {})),
        result(got),
        says(f"I handed over to {agents[0]}."),
    )
    system = f"You are {pool.person()}, an agent." if pool.chance(0.5) else ""
    return Dialogue("handover", turns, tuple(tools), system)


def _agent(pool: Pool) -> Callable[[], str]:
    return lambda: pool.english() if pool.chance(0.6) else pool.person()


def _prefix(pool: Pool) -> str:
    return "transfer_to" if pool.chance(0.75) else pool.pick(("handoff_to", "delegate_to"))
