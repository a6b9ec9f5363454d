"""Family 2: several requests in one dialogue, and questions that the history answers."""

from __future__ import annotations

from models.tiny.data.chains import SINKS, SOURCES, chained_within, parallel_within
from models.tiny.data.dialogue import Dialogue, Turn, says, user
from models.tiny.data.offers import offer, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import asked, exchange, missing
from models.tiny.data.skills import SKILLS, dress
from models.tiny.data.talk import small_talk

_AGAIN = ("say that again", "what did you say?", "repeat that", "what was the answer again?")


def history(pool: Pool) -> Dialogue:
    """Two to five requests about the same tools; some that none of them serves."""
    wanted = pool.rng.sample(SKILLS, pool.pick((1, 2, 2, 3)))
    if pool.chance(0.4):
        wanted = [pool.pick(SOURCES), pool.pick(SINKS)]
    found = offer(pool, wanted, 7)
    skills = [skill for skill, _ in found.values()]
    turns: list[Turn] = []
    for _ in range(pool.pick((2, 2, 3, 3, 4, 5))):
        kind = pool.rng.random()
        new: list[Turn] = []
        if kind < 0.1 and turns:
            new = [user(dress(pool, pool.pick(_AGAIN))), says(turns[-1].text)]
        elif kind < 0.17:
            new = small_talk(pool)
        elif kind < 0.29:
            new = missing(pool, found)
        elif kind < 0.37:
            new = parallel_within(pool, found)
        elif kind < 0.52:
            new = chained_within(pool, found)
        turns += new or exchange(pool, asked(pool, found, pool.pick(skills)), 0.06)
    return Dialogue("history", tuple(turns), tools_of(found), system_prompt(pool))
