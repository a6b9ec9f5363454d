"""A noisy neighbor: twenty agents join, and the three teams still want their answers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import model
import screen
from kernel import make_kernel

from aios_core import Agent, Budget, BudgetExceeded, Kernel
from aios_core.testing import run_virtual

NUM_NEIGHBORS = 20
CALLS_EACH = 3
PAUSE_S = 2.0  # what a team does between two of its calls
TEAMS = ("travel", "lodging", "assistant")


def describe() -> str:
    """Describe this step in a few words."""
    time = "simulated time" if model.is_scripted() else "real time"
    return f"{NUM_NEIGHBORS} more agents; {time}"


def compare() -> None:
    """Show what a call of each group waits under two policies."""
    waits = {policy: _run(_crowd(policy)) for policy in ("fifo", "fair")}
    screen.table(
        ("mean wait of a call", *waits),
        [
            (group, *(f"{by_group[group]:.1f} s" for by_group in waits.values()))
            for group in (*TEAMS, "research")
        ],
    )


def cap(kernel: Kernel) -> None:
    """Give the neighbor a budget and show how it ends."""
    with kernel.spawn("crawler", group="research", budget=Budget(tokens=400)) as crawler:
        try:
            for _ in range(CALLS_EACH):
                crawler.llm.generate(model.RESEARCH, max_tokens=150)
        except BudgetExceeded as error:
            screen.line("research", f"is refused: {error}")


def _run(work: Coroutine[Any, Any, dict[str, float]]) -> dict[str, float]:
    """Run in virtual time with the script, and in real time with a real model."""
    return run_virtual(work) if model.is_scripted() else asyncio.run(work)


async def _crowd(policy: str) -> dict[str, float]:
    """Let everybody work at once. Returns the mean wait of a call by group, in seconds."""
    async with make_kernel(":memory:", policy=policy) as kernel:
        async with asyncio.TaskGroup() as tasks:
            for number in range(NUM_NEIGHBORS):
                neighbor = await kernel.aspawn(f"crawler-{number}", group="research")
                tasks.create_task(_work(neighbor, model.RESEARCH, 0.0))
            for group in TEAMS:
                agent = await kernel.aspawn(group, group=group)
                tasks.create_task(_work(agent, model.FIND_FLIGHTS, PAUSE_S))
        return {
            group.name: group.accounting.waiting_s / max(1, group.accounting.num_calls)
            for group in kernel.groups()
        }


async def _work(agent: Agent, question: str, pause_s: float) -> None:
    for _ in range(CALLS_EACH):
        await asyncio.sleep(pause_s)
        await agent.llm.agenerate(question, max_tokens=150)
