"""Seeded synthetic dialogues: the training mixture, and the cases of the evaluation.

One file per family; `pools.py` keeps training and evaluation apart. Promises:
equal seeds give equal dialogues, in any order and process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from models.tiny.data.chains import chain, cities, parallel, sequence
from models.tiny.data.dialogue import Dialogue, render
from models.tiny.data.execution import execution
from models.tiny.data.handover import handover
from models.tiny.data.history import history
from models.tiny.data.pools import Pool, is_held_out
from models.tiny.data.react import react
from models.tiny.data.schema import schema
from models.tiny.data.single import failing, refusal, single, six_tools, ten_tools
from models.tiny.data.talk import echo, talk
from models.tiny.data.unseen import unfit, unseen

__all__ = [
    "CASES",
    "MIXTURES",
    "Dialogue",
    "Pool",
    "evaluation_dialogue",
    "is_held_out",
    "render",
    "training_dialogue",
]

Family = Callable[[Pool], Dialogue]

# What is trained on, by share of the dialogues. "core" is for short runs: the tools known by
# name and what is done with them, and little of everything else.
MIXTURES: Final[Mapping[str, tuple[tuple[float, Family], ...]]] = {
    "all": (
        (20, single),
        (4, ten_tools),
        (9, history),
        (10, chain),
        (3, sequence),
        (6, parallel),
        (3, cities),
        (20, unseen),
        (3, unfit),
        (5, refusal),
        (2, react),
        (3, execution),
        (3, schema),
        (2, handover),
        (3, talk),
        (4, echo),
    ),
    "core": (
        (30, single),
        (14, ten_tools),
        (8, six_tools),
        (8, history),
        (13, chain),
        (2, sequence),
        (4, parallel),
        (2, cities),
        (4, unseen),
        (0.5, unfit),
        (5, refusal),
        (0.5, react),
        (1, execution),
        (1, schema),
        (1, handover),
        (4, talk),
        (2, echo),
    ),
}

# What is measured: the rows of the model card.
CASES: Final[Mapping[str, Family]] = {
    "six tools of the first trial": six_tools,
    "ten tools offered": ten_tools,
    "other names and descriptions": lambda pool: single(pool, plain=0.0, novel=0.1, error_share=0),
    "a tool's error": failing,
    "several requests": history,
    "chain of 2": lambda pool: chain(pool, 2),
    "chain of 3": lambda pool: chain(pool, 3),
    "chain of 4": lambda pool: chain(pool, 4),
    "one after the other": sequence,
    "side by side": parallel,
    "side by side, one tool": cities,
    "unseen tool, 1 offered": lambda pool: unseen(pool, 1),
    "unseen tool, 5 offered": lambda pool: unseen(pool, 5),
    "none of 5 unseen fits": lambda pool: unfit(pool, 5),
    "no known tool fits": refusal,
    "ReAct text": lambda pool: react(pool, long_share=0.0),
    "ReAct text, long prompt": lambda pool: react(pool, long_share=1.0),
    "execute(language, code)": execution,
    "JSON schema": schema,
    "handing over": handover,
    "plain talk": talk,
    "repeating words": echo,
}


def training_dialogue(seed: str, mixture: str = "all") -> Dialogue:
    """The dialogue of this seed. Nothing in it is held out."""
    pool = Pool(seed)
    return pool.pick_by_weight(MIXTURES[mixture])(pool)


def evaluation_dialogue(case: str, seed: str) -> Dialogue:
    """A dialogue of one row of `CASES`, of what is held out."""
    return CASES[case](Pool(f"evaluation/{case}/{seed}", held_out=True))
