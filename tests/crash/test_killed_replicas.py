"""Kill -9 of replicas at random, in the middle of answers: nothing hangs, repeats or is mixed up.

Every answer is equal to the uninterrupted one. Only a streamed answer with a seed, which no other
server can continue, may end in `AnswerLost` instead.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest

from aios_core import Agent, AnswerLost, Budget, EventKind, EventLog, Kernel, KernelConfig
from aios_core.cores.openai.core import OpenAICore

from .replica import answer_ids, prompt_ids, text_of

PROGRAM = Path(__file__).with_name("replica.py")
MAX_TOKENS = 64
AT_ONCE = 40


class Replica:
    """A server in a process of its own, which keeps its port when it is killed."""

    def __init__(self) -> None:
        self.num_kills = 0
        self.port = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-S", "-E", str(PROGRAM), str(self.port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our program
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        return process

    def kill(self) -> None:
        """End the process at once, without a chance to clean up."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def kill_and_restart(self) -> None:
        self.num_kills += 1
        self.kill()
        self.process = self._start()

    def core(self, name: str) -> OpenAICore:
        return OpenAICore(f"http://127.0.0.1:{self.port}/v1", ["m"], name=name, slots=16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Killer:
    """Kills a random replica whenever a random number of tokens has been received."""

    def __init__(
        self, replicas: list[Replica], chance: random.Random, tokens_between: tuple[int, int]
    ) -> None:
        self._replicas = replicas
        self._chance = chance
        self._tokens_between = tokens_between
        self._left = tokens_between[0]
        self._killing: asyncio.Task[None] | None = None

    def count(self) -> None:
        self._left -= 1
        if self._left <= 0 and (self._killing is None or self._killing.done()):
            self._left = self._chance.randint(*self._tokens_between)
            victim = self._chance.choice(self._replicas)
            self._killing = asyncio.create_task(asyncio.to_thread(victim.kill_and_restart))

    async def rest(self) -> None:
        if self._killing is not None:
            await self._killing


def expected(prompt: str, seed: int | None) -> str:
    ids = prompt_ids({"messages": [{"content": prompt}]})
    return "".join(map(text_of, answer_ids(ids, MAX_TOKENS, seed)))


async def one_answer(agent: Agent, number: int, killer: Killer) -> str:
    """Ask for one answer. Returns its kind and how it ended."""
    prompt, seed = f"tell me the story number {number}", number if number % 2 else None
    sampling = {"max_tokens": MAX_TOKENS}
    if seed is not None:
        sampling |= {"temperature": 1.0, "seed": seed}  # type: ignore[dict-item]
    whole = expected(prompt, seed)
    if number % 4 < 2:
        completion = await agent.llm.agenerate(prompt, **sampling)  # type: ignore[arg-type]
        assert completion.text == whole
        assert completion.usage.output_tokens == len(whole.split())
        return "whole"
    seen, lost = "", None
    try:
        async with agent.llm.astream(prompt, **sampling) as stream:  # type: ignore[arg-type]
            async for delta in stream:
                seen += delta.text
                killer.count()
    except AnswerLost as error:
        lost = error
    if lost is None:
        assert seen == stream.completion.text == whole
        return "streamed"
    assert seed is not None, f"a greedy answer was lost: {lost}"
    assert whole.startswith(seen)
    assert lost.num_tokens == len(seen.split())
    return "lost"


@asynccontextmanager
async def kernel_of(replicas: list[Replica]) -> AsyncIterator[Kernel]:
    """Run a kernel on the replicas; at the end nothing is held, and all accounts are right."""
    config = KernelConfig.load(
        environ={}, scheduler={"max_attempts": 30, "core_wait_s": 60.0}, guard={}
    )
    cores = [replica.core(f"replica-{i}") for i, replica in enumerate(replicas)]
    async with Kernel(config, cores=cores) as kernel:
        yield kernel
        kernel.check()
        assert kernel.num_in_flight == 0
        assert all(core.load().num_running == 0 for core in cores)
        for process in kernel.processes:
            reserved = process.budget.reserved
            assert not process.live_calls
            assert (reserved.tokens, reserved.calls, reserved.money) == (0, 0, 0)


async def answers_under_kills(
    num_answers: int, tokens_between_kills: tuple[int, int]
) -> tuple[Counter[str], Counter[str], int]:
    """Return how answers ended, the kinds of events, and the number of kills."""
    log = EventLog()
    with Replica() as one, Replica() as two, Replica() as three:
        replicas = [one, two, three]
        killer = Killer(replicas, random.Random(num_answers), tokens_between_kills)
        async with kernel_of(replicas) as kernel:
            kernel.subscribe(log)
            agents = [
                await kernel.aspawn(f"a{i}", budget=Budget(tokens=10_000_000)) for i in range(8)
            ]
            gate = asyncio.Semaphore(AT_ONCE)

            async def asked(number: int) -> str:
                async with gate:
                    return await one_answer(agents[number % 8], number, killer)

            ends = await asyncio.gather(*map(asked, range(num_answers)))
            await killer.rest()
        kills = sum(replica.num_kills for replica in replicas)
    events = log.events()
    kinds = Counter(str(event.kind) for event in events)
    retried = [event.facts for event in events if event.kind is EventKind.RETRIED]
    kinds["continued"] = sum(fact.get("tokens", 0) > 0 for fact in retried)
    kinds["started again"] = sum(fact.get("lost_tokens", 0) > 0 for fact in retried)
    return Counter(ends), kinds, kills


async def test_answers_survive_the_kills_of_their_replicas() -> None:
    ends, kinds, kills = await answers_under_kills(60, (50, 300))

    assert sum(ends.values()) == 60
    assert kills >= 2
    assert kinds["continued"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_thousand_answers_survive_the_kills_of_their_replicas() -> None:
    ends, kinds, kills = await answers_under_kills(1_000, (100, 800))
    sys.stdout.write(f"\n{dict(ends)}; {kills} kills; {dict(kinds)}\n")  # shown with -s

    assert sum(ends.values()) == 1_000
    assert kills >= 30
    assert kinds["continued"] > 20
    assert kinds["started again"] > 20
