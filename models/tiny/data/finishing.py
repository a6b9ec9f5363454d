"""Family 5: answering TERMINATE at the end, as AutoGen's default system message asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from models.tiny.data.chains import chain
from models.tiny.data.dialogue import Dialogue, says
from models.tiny.data.pools import Pool
from models.tiny.data.single import single

_SYSTEM: Final = (
    (
        "You are a helpful AI assistant. Solve tasks using your tools. "
        "Reply with TERMINATE when the task has been completed."
    ),
    "Use the tools. Reply TERMINATE when you are done.",
)


def finishing(pool: Pool) -> Dialogue:
    dialogue = chain(pool, 2) if pool.chance(0.3) else single(pool)
    *before, last = dialogue.turns
    turns = (*before, says(f"{last.text} TERMINATE"))
    return replace(dialogue, family="finishing", turns=turns, system=pool.pick(_SYSTEM))
