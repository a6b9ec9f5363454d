"""Loads of agents for the simulated device: their turns, drawn from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aios_core.testing import CostModel


@dataclass(frozen=True)
class Turn:
    """One LLM call of an agent, and the tool that it runs afterwards."""

    new_tokens: int  # that the prompt adds to the context
    output_tokens: int
    tool_s: float


@dataclass(frozen=True)
class Plan:
    """The calls that one agent will make."""

    group: str
    starts_at: float
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Load:
    """Agents on a core, drawn from a seed."""

    name: str
    about: str
    draw: Callable[[random.Random], list[Plan]]
    costs: CostModel
    weights: Mapping[str, float] = field(default_factory=dict)
    ends_at: float | None = None  # cut off then; None: when all agents are done
    max_tokens: int | None = None  # what callers allow; None: what frameworks do, no limit
    is_saturating: bool = False  # the contexts need much of the KV memory, or more than all
    system_tokens: int = 0  # of each prompt, the same for all agents


# --- loads that need much KV memory ---------------------------------------------------------------

# An 8B model on one GPU of 80 GB, as in vLLM's defaults.
BIG: Final = CostModel(
    prefill_tokens_per_s=20_000,
    attention_tokens=40_000,
    decode_step_s=0.008,
    decode_per_sequence_s=0.00005,
    kv_read_tokens_per_s=25e6,
    kv_capacity_tokens=430_000,
    slots=256,
    prefill_chunk_tokens=2_048,
    context_window=131_072,
)


def lognormal(rng: random.Random, mean: float, sigma: float) -> float:
    """Draw from a lognormal distribution with this mean."""
    return rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


def clipped(value: float, least: float, most: float) -> float:
    return min(most, max(least, value))


def coding_agent(
    rng: random.Random, starts_at: float, *, tool_s: float = 3.0, sigma: float = 1.6
) -> Plan:
    """Draw an agent that repairs software: about 25 turns, contexts of 30,000 to 100,000 tokens."""
    num = int(clipped(lognormal(rng, 25, 0.6), 3, 80))
    turns = []
    for position in range(num):
        new = rng.randint(4_000, 8_000) if position == 0 else lognormal(rng, 1_200, 1.0)
        output = clipped(lognormal(rng, 200, 0.8), 20, 2_000)
        tool = clipped(lognormal(rng, tool_s, sigma), 0.05, 60)
        turns.append(Turn(int(clipped(new, 50, 12_000)), int(output), tool))
    return Plan("all", starts_at, _within(turns, BIG.context_window))


def chatting_agent(rng: random.Random, starts_at: float) -> Plan:
    """Draw a conversation with a person: 2 to 8 turns, and pauses of about 15 seconds."""
    turns = []
    for position in range(rng.randint(2, 8)):
        new = rng.randint(500, 2_500) if position == 0 else rng.randint(30, 300)
        output = int(clipped(lognormal(rng, 300, 0.7), 20, 1_500))
        turns.append(Turn(new, output, clipped(lognormal(rng, 15, 0.8), 2, 90)))
    return Plan("all", starts_at, tuple(turns))


def _within(turns: list[Turn], window: int) -> tuple[Turn, ...]:
    """The turns until the context would outgrow the window."""
    context, kept = 0, []
    for turn in turns:
        context += turn.new_tokens + turn.output_tokens
        if context > window:
            break
        kept.append(turn)
    return tuple(kept)


def coding(num: int, **tools: float) -> Callable[[random.Random], list[Plan]]:
    return lambda rng: [coding_agent(rng, rng.uniform(0, 5), **tools) for _ in range(num)]


def chat(rng: random.Random) -> list[Plan]:
    return [chatting_agent(rng, rng.uniform(0, 60)) for _ in range(600)]


def mixed(rng: random.Random) -> list[Plan]:
    return [
        coding_agent(rng, rng.uniform(0, 5))
        if number % 3 == 0
        else chatting_agent(rng, rng.uniform(0, 200))
        for number in range(180)
    ]


def arriving(rng: random.Random) -> list[Plan]:
    """Draw agents that come whether or not others are done, faster than direct calls serve them."""
    now, plans = 0.0, []
    for _ in range(80):
        now += rng.expovariate(1 / 12)
        plans.append(coding_agent(rng, now))
    return plans


# --- loads on enough memory -----------------------------------------------------------------------

ROOMY: Final = CostModel(slots=16, kv_capacity_tokens=1_000_000)


def turns_between(
    rng: random.Random,
    num: tuple[int, int],
    new: tuple[int, int],
    out: tuple[int, int],
    tool_s: float,
) -> tuple[Turn, ...]:
    return tuple(
        Turn(rng.randint(*new), rng.randint(*out), rng.expovariate(1 / tool_s) if tool_s else 0.0)
        for _ in range(rng.randint(*num))
    )


def burst(rng: random.Random) -> list[Plan]:
    """Nine agents with short answers for each one that works long, within a minute."""
    plans = []
    for _ in range(200):
        if rng.random() < 0.9:
            work = turns_between(rng, (1, 3), (100, 500), (20, 100), 0.5)
        else:
            work = turns_between(rng, (6, 12), (100, 300), (300, 900), 0.5)
        plans.append(Plan("all", rng.uniform(0, 60), work))
    return plans


def noisy_neighbour(rng: random.Random) -> list[Plan]:
    """A crowd with long answers, and a few with short ones who come a little later."""
    heavy = [
        Plan("heavy", 0.0, turns_between(rng, (3, 3), (200, 600), (300, 500), 0.2))
        for _ in range(120)
    ]
    light = [
        Plan("light", rng.uniform(30, 33), turns_between(rng, (5, 5), (50, 150), (100, 200), 1.0))
        for _ in range(6)
    ]
    return heavy + light


def backlog(rng: random.Random) -> list[Plan]:
    """Three groups that always have more to do than they get."""
    return [
        Plan(group, 0.0, turns_between(rng, (200, 200), (5, 50), longest, 0.0))
        for group, num_agents, longest in (
            ("few", 24, (50, 500)),
            ("double", 24, (50, 500)),
            ("many", 96, (20, 200)),
        )
        for _ in range(num_agents)
    ]


def _saturating(name: str, about: str, draw: Callable[[random.Random], list[Plan]]) -> Load:
    return Load(name, about, draw, BIG, is_saturating=True, system_tokens=1_024)


LOADS: Final = {
    load.name: load
    for load in (
        Load("burst", "200 agents within 60 s, a tenth of them long", burst, ROOMY, max_tokens=512),
        Load(
            "noisy neighbour",
            "6 light agents next to 120 heavy ones, of equal weight",
            noisy_neighbour,
            ROOMY,
            {"heavy": 1.0, "light": 1.0},
            max_tokens=512,
        ),
        Load(
            "backlog",
            "three groups of weights 1, 2 and 1 that never run dry, for 120 s",
            backlog,
            ROOMY,
            {"few": 1.0, "double": 2.0, "many": 1.0},
            ends_at=120.0,
            max_tokens=512,
        ),
        _saturating("coding, 32", "32 coding agents", coding(32)),
        _saturating("coding, 64", "64 coding agents", coding(64)),
        _saturating("slow tools", "64, tools of 15 s", coding(64, tool_s=15.0, sigma=1.2)),
        _saturating("fast tools", "64, tools of 0.5 s", coding(64, tool_s=0.5, sigma=1.0)),
        _saturating("mixed", "60 coding agents and 120 conversations", mixed),
        _saturating("chat", "600 conversations within a minute", chat),
        _saturating("arriving", "80 coding agents, one every 12 s", arriving),
        _saturating("coding, 8", "8 coding agents that all fit", coding(8)),
    )
}
