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
from models.tiny.data.finishing import finishing
from models.tiny.data.handoff import handover, referral
from models.tiny.data.history import history
from models.tiny.data.pools import Pool, is_held_out
from models.tiny.data.react import react
from models.tiny.data.schema import schema
from models.tiny.data.single import failing, refusal, single, six_tools, ten_tools
from models.tiny.data.talk import echo, talk
from models.tiny.data.unseen import drill, routing, unfit, unseen, unseen_history

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

# What is trained on, by share of the dialogues; in the order in which it is best learnt. `first`:
# to copy. `route`: to go from what is described to a name without meaning. `match`: to find what
# a request is about among the tools.
MIXTURES: Final[Mapping[str, tuple[tuple[float, Family], ...]]] = {
    "first": (
        (50, echo),
        (22, lambda pool: single(pool, num_tools=2)),
        (16, drill),
        (6, lambda pool: unseen(pool, 1)),
        (4, cities),
        (2, talk),
    ),
    "route": (
        (80, lambda pool: routing(pool, (1, 3))),
        (20, lambda pool: drill(pool, bare=True)),
    ),
    "match": (
        (45, routing),
        (18, lambda pool: drill(pool, bare=True)),
        (12, drill),
        (9, lambda pool: unseen(pool, opaque=0.5)),
        (8, single),
        (8, refusal),
    ),
    "all": (
        (6, single),
        (5, ten_tools),
        (3, six_tools),
        (12, history),
        (18, chain),
        (6, sequence),
        (10, parallel),
        (4, cities),
        (8, lambda pool: routing(pool, kinship=0.4)),
        (4, lambda pool: drill(pool, bare=True)),
        (4, drill),
        (8, lambda pool: unseen(pool, opaque=0.5)),
        (14, lambda pool: unseen_history(pool, opaque=0.5)),
        (8, unfit),
        (6, refusal),
        (4, lambda pool: react(pool, most=3)),
        (4, execution),
        (6, schema),
        (7, handover),
        (12, referral),
        (2, finishing),
        (4, lambda pool: talk(pool, execute_share=0.4)),
        (3, echo),
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
    "JSON schema, with its grammar": schema,
    "handing over": handover,
    "saying TERMINATE": finishing,
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
