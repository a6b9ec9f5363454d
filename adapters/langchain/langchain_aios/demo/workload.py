"""The demo's 24 agents: one heavy group of twelve, two light groups of six.

The heavy ones get all their work at once and go through it without a pause. The
light ones belong to people, who ask, read the answer, think and ask again. All
are `create_agent` agents of LangChain with the same five tools.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig

from langchain_aios.demo.records import Run, Stopwatch, TaskRecord
from langchain_aios.demo.tasks import Desk, Task, errand, make_tools, worksheet

HEAVY: Final = "batch"
LIGHT: Final = ("chat", "desk")
GROUPS: Final = (HEAVY, *LIGHT)


@dataclass(frozen=True, slots=True)
class Member:
    """One agent and its work: for each task, the pause before it in seconds."""

    name: str
    group: str
    work: tuple[tuple[float, Task], ...]


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to do."""

    num_heavy: int = 12
    num_light: int = 6  # in each light group
    num_worksheets: int = 1
    num_steps: int = 4
    num_errands: int = 3
    think_s: tuple[float, float] = (0.2, 0.8)


def make_members(size: Size, seed: int) -> list[Member]:
    """The agents; the same for the same seed."""
    rng = random.Random(seed)
    members = [
        Member(
            f"{HEAVY}-{n}",
            HEAVY,
            tuple((0.0, worksheet(rng, size.num_steps)) for _ in range(size.num_worksheets)),
        )
        for n in range(size.num_heavy)
    ]
    for group in LIGHT:
        for n in range(size.num_light):
            work = tuple((rng.uniform(*size.think_s), errand(rng)) for _ in range(size.num_errands))
            members.append(Member(f"{group}-{n}", group, work))
    return members


async def run_members(
    members: Sequence[Member], llm: BaseChatModel, run: Run, watch: Stopwatch
) -> None:
    """Start the watch and let all of them work at once; what they did is added to `run`."""
    workers = [_Worker(member, llm, run, watch) for member in members]
    watch.start()
    await asyncio.gather(*(worker.work() for worker in workers))
    run.is_complete = True


class _Worker:
    def __init__(self, member: Member, llm: BaseChatModel, run: Run, now: Stopwatch) -> None:
        self._member = member
        self._desk = Desk()
        self._agent: Any = create_agent(llm, make_tools(self._desk))
        self._run = run
        self._now = now
        self._config: RunnableConfig = {
            "metadata": {"aios_agent": member.name, "aios_group": member.group}
        }

    async def work(self) -> None:
        for pause_s, task in self._member.work:
            await asyncio.sleep(pause_s)
            started_at = self._now()
            is_right = await task.perform(self._ask, self._desk)
            self._run.tasks.append(
                TaskRecord(
                    agent=self._member.name,
                    group=self._member.group,
                    kind=task.kind,
                    started_at=started_at,
                    ended_at=self._now(),
                    is_right=is_right,
                )
            )

    async def _ask(self, question: str) -> str:
        state = await self._agent.ainvoke({"messages": [("user", question)]}, self._config)
        return str(state["messages"][-1].content)
