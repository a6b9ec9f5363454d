"""Family 2: several requests in one dialogue, and questions that the history answers."""

from __future__ import annotations

from models.tiny.data.dialogue import Dialogue, Turn, says, user
from models.tiny.data.offers import offer, system_prompt, tools_of
from models.tiny.data.pools import Pool
from models.tiny.data.single import asked, exchange
from models.tiny.data.skills import SKILLS, dress
from models.tiny.data.talk import small_talk

_AGAIN = ("say that again", "what did you say?", "repeat that", "what was the answer again?")


def history(pool: Pool) -> Dialogue:
    """Two to four requests about the same tools."""
    wanted = pool.rng.sample(SKILLS, pool.pick((1, 2, 2, 3)))
    found = offer(pool, wanted, 4)
    turns: list[Turn] = []
    for _ in range(pool.pick((2, 2, 3, 4))):
        if turns and pool.chance(0.2):
            turns += [user(dress(pool, pool.pick(_AGAIN))), says(turns[-1].text)]
        elif pool.chance(0.08):
            turns += small_talk(pool)
        else:
            turns += exchange(pool, asked(pool, found, pool.pick(wanted)), 0.06)
    return Dialogue("history", tuple(turns), tools_of(found), system_prompt(pool))
