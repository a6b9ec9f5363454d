"""Measure the use of a remote API's quota: refusals, quota used, agents lost, fairness.

The real `OpenAICore` calls a server with a hidden quota that changes, in virtual time. For
comparison: a plain client that repeats refused calls as OpenAI's own does, without end, after
`Retry-After` or a back-off from 0.5 to 8 s.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import openai
from _quota_server import Behavior, Phase, QuotaServer
from _report import arguments, mean_ci95, show, write

from aios_core import Kernel, KernelConfig, KernelError
from aios_core.config import SchedulerConfig
from aios_core.cores.openai.core import OpenAICore
from aios_core.process import RunawayGuard
from aios_core.testing import run_virtual

SEEDS = range(5)
URL = "https://api.example.com/v1"
HEAVY = 8  # calls in flight of the heavy agent, of which there is one
THINK_S = 1.0
BEHAVIORS = {
    "headers, exact Retry-After": Behavior(has_headers=True, retry_after="exact"),
    "headers, no Retry-After": Behavior(has_headers=True, retry_after=None),
    "exact Retry-After": Behavior(has_headers=False, retry_after="exact"),
    "Retry-After: 1": Behavior(has_headers=False, retry_after="1"),
    "nothing": Behavior(has_headers=False, retry_after=None),
}
COLUMNS = {
    "server, agents, client": "{name}",
    "calls": "{calls:,.0f}",
    "429 a call": "{refused:.2%}",
    "± 95 %": "{refused_ci:.2%}",
    "quota used": "{used:.1%}",
    "± 95 % ": "{used_ci:.1%}",
    "lost": "{lost:.0f}",
    "fair": "{fair:.2f}",
}
CAPTION = (
    "429 a call: refusals by served calls. Quota used: of all that the server would have served,"
    " its first bucket included. Fair: the heavy agent's calls by those of the median agent."
)

Ask = Callable[[str, str], Awaitable[object]]


def phases(num_agents: int, *, quick: bool) -> tuple[Phase, ...]:
    """Return a quota that falls, grows, and is bound by tokens at last."""
    rate = max(2.5, num_agents / 12)
    long_s = 60.0 if quick else max(200.0, 1_500 / rate)
    tokens = rate * 250
    return (
        Phase(long_s, rate),
        Phase(2 * long_s, 0.4 * rate),
        Phase(3 * long_s, 1.5 * rate),
        Phase(4 * long_s, 4 * rate, tokens) if quick else Phase(3.5 * long_s, 1.5 * rate),
    )


@dataclass(slots=True)
class Outcome:
    """The figures of one run."""

    calls: int
    refused: float
    used: float
    lost: int
    fair: float


def outcome(server: QuotaServer, lost: int, duration_s: float) -> Outcome:
    """Judge a run by what its server saw."""
    served = [one for one in server.arrivals if one.is_accepted and one.at <= duration_s]
    num_refused = sum(not one.is_accepted for one in server.arrivals)
    share, allowed, since = 0.0, 0.0, 0.0
    for phase in server.phases:
        mine = [one for one in served if since <= one.at < phase.until_s]
        span_s = phase.until_s - since
        burst = phase.calls * server.behavior.burst_s if not since else 0.0
        by_calls = len(mine) / (phase.calls * span_s + burst)
        by_tokens = sum(one.tokens for one in mine) / (phase.tokens * span_s)
        share += max(by_calls, by_tokens) * span_s
        allowed += span_s
        since = phase.until_s
    calls = Counter(one.agent for one in served)
    heavy = calls.pop("agent0", 0)
    fair = heavy / max(1.0, statistics.median(calls.values())) if calls else 0.0
    return Outcome(len(served), num_refused / max(1, len(served)), share / allowed, lost, fair)


async def load(ask: Ask, num_agents: int, duration_s: float, seed: int) -> int:
    """Let agents call until a time; return how many of them met an error."""
    lost = 0

    async def agent(number: int, stream: int) -> None:
        nonlocal lost
        rng = random.Random(f"{seed} {number} {stream}")
        await asyncio.sleep(rng.uniform(0, 1))
        while True:
            name = f"agent{number}"
            try:
                await ask(name, f"{name} " + "x" * int(rng.expovariate(1 / 800)))
            except (KernelError, openai.OpenAIError):
                lost += 1
                return
            await asyncio.sleep(rng.expovariate(1 / THINK_S) if number else 0.0)

    streams = [(number, 0) for number in range(num_agents)] + [(0, one) for one in range(1, HEAVY)]
    tasks = [asyncio.create_task(agent(*one)) for one in streams]
    await asyncio.sleep(duration_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return lost


def http_of(server: QuotaServer) -> httpx.AsyncClient:
    """Return a client that sends its requests to the server."""
    return httpx.AsyncClient(transport=httpx.MockTransport(server), timeout=600.0)


class MockedCore(OpenAICore):
    """The real core, over a transport in this process."""

    def __init__(self, server: QuotaServer, **options: Any) -> None:
        super().__init__(URL, ["m"], probe=False, **options)
        self._server = server

    async def build_client(self) -> openai.AsyncOpenAI:
        self._http = http_of(self._server)
        return openai.AsyncOpenAI(
            base_url=URL, api_key="key", max_retries=0, http_client=self._http
        )


async def through_kernel(server: QuotaServer, num_agents: int, duration_s: float, seed: int) -> int:
    """Run the load on a kernel with the policy `fair`."""
    config = KernelConfig(
        scheduler=SchedulerConfig(policy="fair"),
        guard=RunawayGuard(max_repeats=None, max_calls=None),
        drain_s=0.0,
    )
    async with Kernel(config, cores=[MockedCore(server, slots=256)]) as kernel:
        agents = {
            f"agent{number}": await kernel.aspawn(f"agent{number}") for number in range(num_agents)
        }

        async def ask(name: str, text: str) -> object:
            return await agents[name].llm.agenerate(text, max_tokens=60)

        return await load(ask, num_agents, duration_s, seed)


async def plainly(server: QuotaServer, num_agents: int, duration_s: float, seed: int) -> int:
    """Run the load on a client that repeats refused calls."""
    http = http_of(server)
    async with openai.AsyncOpenAI(
        base_url=URL, api_key="key", max_retries=10_000, http_client=http
    ) as client:

        async def ask(_name: str, text: str) -> object:
            stream = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": text}],
                max_tokens=60,
                stream=True,
            )
            return [chunk async for chunk in stream]

        return await load(ask, num_agents, duration_s, seed)


CLIENTS = {"plain client": plainly, "kernel": through_kernel}


def measure(behavior: str, num_agents: int, client: str, seed: int, *, quick: bool) -> Outcome:
    """Run one load in virtual time."""
    quotas = phases(num_agents, quick=quick)
    duration_s = quotas[-1].until_s
    server = QuotaServer(quotas, BEHAVIORS[behavior], seed)
    lost = run_virtual(CLIENTS[client](server, num_agents, duration_s, seed))
    return outcome(server, lost, duration_s)


def row(behavior: str, num_agents: int, client: str, *, quick: bool) -> dict[str, Any]:
    """Return a row of the table: the mean over all seeds."""
    seeds = list(SEEDS)[: 1 if quick else None]
    runs = [measure(behavior, num_agents, client, seed, quick=quick) for seed in seeds]
    refused, refused_ci = mean_ci95([run.refused for run in runs])
    used, used_ci = mean_ci95([run.used for run in runs])
    return {
        "name": f"{behavior}; {num_agents}; {client}",
        "calls": statistics.fmean(run.calls for run in runs),
        "refused": refused,
        "refused_ci": refused_ci,
        "used": used,
        "used_ci": used_ci,
        "lost": sum(run.lost for run in runs),
        "fair": statistics.fmean(run.fair for run in runs),
    }


def main() -> None:
    """Print and write the table."""
    quick = arguments(__doc__).quick
    rows = []
    for num_agents in (8, 250):
        for behavior in BEHAVIORS:
            for client in CLIENTS:
                rows.append(row(behavior, num_agents, client, quick=quick))
                print(rows[-1]["name"], f"{rows[-1]['refused']:.2%} {rows[-1]['used']:.1%}")
    show("Quotas of a remote API", COLUMNS, rows, CAPTION)
    write("quota", rows)


if __name__ == "__main__":
    main()
