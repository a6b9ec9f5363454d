"""The demo's 24 agents: one heavy group of twelve, two light groups of six.

The heavy ones get all their work at once and go through it without a pause. The
light ones belong to people, who ask, read the answer, think and ask again. All have
the same five tools.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from langchain_aios.demo.records import Run, Stopwatch, TaskRecord
from langchain_aios.demo.tasks import Ask, NoteStore, Task, errand, worksheet

HEAVY: Final = "batch"
LIGHT: Final = ("chat", "desk")
GROUPS: Final = (HEAVY, *LIGHT)


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One agent and its work: for each task, the pause before it in seconds."""

    name: str
    group: str
    work: tuple[tuple[float, Task], ...]


@dataclass(frozen=True, slots=True)
class Size:
    """The amount of work."""

    num_heavy: int = 12
    num_light: int = 6  # in each light group
    num_worksheets: int = 1
    num_steps: int = 4
    num_errands: int = 3
    num_each: int = 4  # of every framework, when all of them share a kernel
    think_s: tuple[float, float] = (0.2, 0.8)


def make_members(size: Size, seed: int) -> list[AgentPlan]:
    """The agents; the same for the same seed."""
    rng = random.Random(seed)
    members = [
        AgentPlan(
            f"{HEAVY}-{n}",
            HEAVY,
            tuple((0.0, worksheet(rng, size.num_steps)) for _ in range(size.num_worksheets)),
        )
        for n in range(size.num_heavy)
    ]
    for group in LIGHT:
        members += [
            AgentPlan(f"{group}-{n}", group, _errands(rng, size)) for n in range(size.num_light)
        ]
    return members


def make_mixed_agents(frameworks: Sequence[str], size: Size, seed: int) -> list[AgentPlan]:
    """Agents that all do light work, as many of each framework; a group for each."""
    rng = random.Random(seed)
    return [
        AgentPlan(f"{framework}-{n}", framework, _errands(rng, size))
        for framework in frameworks
        for n in range(size.num_each)
    ]


def _errands(rng: random.Random, size: Size) -> tuple[tuple[float, Task], ...]:
    return tuple((rng.uniform(*size.think_s), errand(rng)) for _ in range(size.num_errands))


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """An agent at work: how it is asked, and where its tools put things."""

    ask: Ask
    desk: NoteStore


Employ = Callable[[AgentPlan], Awaitable[RunningAgent]]


async def run_members(
    members: Sequence[AgentPlan], make_agent: Employ, run: Run, watch: Stopwatch
) -> None:
    """Start the watch and let all of them work at once; what they did is added to `run`."""
    posts = [await make_agent(member) for member in members]
    watch.start()
    await asyncio.gather(
        *(_work(member, post, run, watch) for member, post in zip(members, posts, strict=True))
    )
    run.is_complete = True


async def _work(member: AgentPlan, post: RunningAgent, run: Run, now: Stopwatch) -> None:
    for pause_s, task in member.work:
        await asyncio.sleep(pause_s)
        started_at = now()
        is_right = await task.perform(post.ask, post.desk)
        run.tasks.append(
            TaskRecord(
                agent=member.name,
                group=member.group,
                kind=task.kind,
                started_at=started_at,
                ended_at=now(),
                is_right=is_right,
            )
        )
