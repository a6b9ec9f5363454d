"""Agents that call a real server in turns with growing contexts, directly or through a kernel.

All systems get the same draws: the texts, the lengths of answers and the times of tools depend on
the seed alone. Every call is written down with the tokens that the server counted for it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import openai

from aios_core import Kernel, KernelConfig
from aios_core.config import SchedulerConfig
from aios_core.cores.openai.core import OpenAICore
from aios_core.messages import Usage
from aios_core.process import RunawayGuard

DIRECT: Final = "direct"
_TINY: Final = Path(__file__).resolve().parent.parent / "models" / "tiny"
_MARGIN: Final = 64  # tokens of a context that stay free for the chat template
_PER_MESSAGE: Final = 8  # tokens of the chat template
_PATIENCE_S: Final = 900.0  # for one call

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Turn:
    """One LLM call of an agent, and the tool that it runs afterwards."""

    num_words: int  # each of them is one token
    max_tokens: int
    tool_s: float


@dataclass(frozen=True)
class Plan:
    """The calls that one agent will make, and the seed of its texts."""

    seed: int
    starts_at: float
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Load:
    """Agents on one server, drawn from a seed."""

    name: str
    about: str
    num_agents: int
    mean_turns: int
    first_words: int
    later_words: int
    answer_tokens: int
    tool_s: float  # about the median; lognormal
    states_limit: bool = True  # else answers end where the server ends them, as by default

    def draw(self, seed: int, window: int) -> list[Plan]:
        """Return the plans of all agents; no context outgrows the window."""
        rng = random.Random(seed)
        return [
            Plan(1_000 * seed + number, rng.uniform(0, 1), tuple(self._turns(rng, window)))
            for number in range(self.num_agents)
        ]

    def _turns(self, rng: random.Random, window: int) -> Iterator[Turn]:
        left = window - _MARGIN
        for number in range(max(3, int(rng.gauss(self.mean_turns, 0.3 * self.mean_turns)))):
            words = self._first(rng) if number == 0 else self._later(rng)
            tool_s = min(20.0, rng.lognormvariate(0, 1.2) * self.tool_s / 2)
            # As a part of the next prompt, an answer may have more tokens than when generated.
            left -= words + 3 * self.answer_tokens + 2 * _PER_MESSAGE
            if left < 0:
                return
            yield Turn(words, self.answer_tokens, tool_s)

    def _first(self, rng: random.Random) -> int:
        return rng.randint(self.first_words // 2, self.first_words * 3 // 2)

    def _later(self, rng: random.Random) -> int:
        drawn = rng.lognormvariate(0, 0.7) * self.later_words * 0.78
        return int(min(4 * self.later_words, max(20, drawn)))


@dataclass(frozen=True)
class Call:
    """One call as its caller saw it, in seconds since the agents began."""

    agent: int
    sent_at: float
    ended_at: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Lived:
    """The times and the calls of the agents of one run."""

    turnaround_s: list[float]  # of each agent, in the order of the plans
    calls: list[Call]
    makespan_s: float

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


class System(Protocol):
    """Something that agents send their calls to."""

    async def generate(self, agent: int, talk: Conversation, max_tokens: int) -> Answer: ...

    async def exit(self, agent: int) -> None: ...


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and the server's count of its tokens."""

    text: str
    usage: Usage


class Direct:
    """The server alone, by the client of its API."""

    def __init__(self, client: Any, model: str, states_limit: bool) -> None:
        self._client, self._model, self._states_limit = client, model, states_limit

    async def generate(self, _agent: int, talk: Conversation, max_tokens: int) -> Answer:
        answer = await self._client.chat.completions.create(
            model=self._model,
            messages=talk,
            temperature=0,
            **_limit(max_tokens, self._states_limit),
            extra_body={"ignore_eos": True},
        )
        used, details = answer.usage, answer.usage.prompt_tokens_details
        cached = (details.cached_tokens or 0) if details else 0
        return Answer(
            answer.choices[0].message.content or "",
            Usage(used.prompt_tokens, used.completion_tokens, cached),
        )

    async def exit(self, _agent: int) -> None:
        """Do nothing: the server knows no agents."""


class UnderKernel:
    """The server as a core of a kernel."""

    def __init__(self, agents: list[Any], states_limit: bool) -> None:
        self._agents, self._states_limit = agents, states_limit

    async def generate(self, agent: int, talk: Conversation, max_tokens: int) -> Answer:
        completion = await self._agents[agent].llm.agenerate(
            talk,
            temperature=0.0,
            extra={"ignore_eos": True},
            **_limit(max_tokens, self._states_limit),
        )
        return Answer(completion.text, completion.usage)

    async def exit(self, agent: int) -> None:
        self._agents[agent].request_exit()


def _limit(max_tokens: int, states_limit: bool) -> dict[str, int]:
    return {"max_tokens": max_tokens} if states_limit else {}


@asynccontextmanager
async def open_system(name: str, base_url: str, model: str, load: Load) -> AsyncIterator[System]:
    """Yield the client of a server, or a kernel with the scheduling policy of this name."""
    if name == DIRECT:
        async with openai.AsyncOpenAI(
            base_url=base_url, api_key="none", max_retries=0, timeout=_PATIENCE_S
        ) as client:
            yield Direct(client, model, load.states_limit)
        return
    core = OpenAICore(base_url, [model], slots=64)
    guard = RunawayGuard(max_repeats=None, max_calls=None)
    config = KernelConfig(scheduler=SchedulerConfig(policy=name), guard=guard, drain_s=0.0)
    async with Kernel(config, cores=[core]) as kernel:
        agents = [await kernel.aspawn(f"agent {number}") for number in range(load.num_agents)]
        yield UnderKernel(agents, load.states_limit)


class Words:
    """Words that are one token each in the bundled tokenizer."""

    def __init__(self) -> None:
        vocabulary = json.loads((_TINY / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
        spaced = (word[1:] for word in vocabulary if word.startswith("\u0120"))
        self._words = sorted(word for word in spaced if word.isascii() and word.isalpha())

    def write(self, rng: random.Random, num: int) -> str:
        return " ".join(rng.choice(self._words) for _ in range(num))


async def live_all(system: System, plans: list[Plan]) -> Lived:
    """Be all agents of a run at once."""
    run = _Run(system)
    turnaround_s = await asyncio.gather(
        *(run.live(number, plan) for number, plan in enumerate(plans))
    )
    return Lived(list(turnaround_s), run.calls, run.now())


class _Run:
    """One run of all agents on one system, with the calls that they made."""

    def __init__(self, system: System) -> None:
        self.calls: list[Call] = []
        self._system = system
        self._words = Words()
        self._began = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._began

    async def live(self, number: int, plan: Plan) -> float:
        """Be one agent. Returns its turnaround in seconds, without a tool after its last call."""
        rng, talk = random.Random(plan.seed), Conversation()
        await asyncio.sleep(plan.starts_at)
        began = self.now()
        for position, turn in enumerate(plan.turns):
            if position:
                await asyncio.sleep(plan.turns[position - 1].tool_s)
            talk.append({"role": "user", "content": self._words.write(rng, turn.num_words)})
            answer = await self._call(number, talk, turn.max_tokens)
            talk.append({"role": "assistant", "content": answer.text or "ok"})
        ended = self.now()
        await self._system.exit(number)
        return ended - began

    async def _call(self, number: int, talk: Conversation, max_tokens: int) -> Answer:
        sent_at = self.now()
        answer = await self._system.generate(number, talk, max_tokens)
        used = answer.usage
        tokens = used.input_tokens, used.cached_tokens, used.output_tokens
        self.calls.append(Call(number, sent_at, self.now(), *tokens))
        return answer
