"""An endpoint with a hidden quota that changes, as a transport for HTTP clients in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

NO_LIMIT = 1e9


@dataclass(frozen=True, slots=True)
class Phase:
    """A quota until a time: calls and tokens in a second."""

    until_s: float
    calls: float
    tokens: float = NO_LIMIT


@dataclass(frozen=True, slots=True)
class Behavior:
    """The ways in which a server informs its clients about the quota."""

    has_headers: bool
    retry_after: str | None  # "exact", a fixed text, or None
    burst_s: float = 5.0  # of quota, that the bucket holds
    answer_s: float = 2.0  # median


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request, as the server saw it."""

    at: float
    agent: str
    tokens: int
    is_accepted: bool


@dataclass(slots=True, eq=False)
class QuotaServer:
    """Two token buckets, for calls and tokens; a request that does not fit is refused (429)."""

    phases: tuple[Phase, ...]
    behavior: Behavior
    seed: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    _rng: random.Random = field(init=False)
    _calls: float = 0.0
    _tokens: float = 0.0
    _at: float = 0.0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._calls = self.phases[0].calls * self.behavior.burst_s
        self._tokens = self.phases[0].tokens * self.behavior.burst_s

    def phase(self, now: float) -> Phase:
        """Return the quota at a time."""
        return next((p for p in self.phases if now < p.until_s), self.phases[-1])

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        if request.method == "GET":
            return httpx.Response(404, json={})
        await asyncio.sleep(self._rng.uniform(0.02, 0.06))  # the way there
        body = json.loads(request.content)
        now = asyncio.get_running_loop().time()
        self._refill(now)
        tokens = len(json.dumps(body["messages"])) // 4 + body.get("max_tokens", 50)
        fits = self._calls >= 1 and self._tokens >= tokens
        agent = body["messages"][-1]["content"].partition(" ")[0]
        self.arrivals.append(Arrival(now, agent, tokens, fits))
        wait_s = self._wait_s(now, tokens)
        if fits:
            self._calls -= 1
            self._tokens -= tokens
        headers = self._headers(now, wait_s, is_refused=not fits)
        await asyncio.sleep(self._rng.uniform(0.02, 0.06))  # the way back
        if not fits:
            error = {"message": "Rate limit", "type": "requests", "code": "rate_limit_exceeded"}
            return httpx.Response(429, headers=headers, json={"error": error})
        answer_s = self.behavior.answer_s * self._rng.lognormvariate(0, 0.5)
        return httpx.Response(
            200,
            headers={"content-type": "text/event-stream", **headers},
            stream=_Answer(answer_s, tokens),
        )

    def _refill(self, now: float) -> None:
        quota, elapsed_s, self._at = self.phase(now), now - self._at, now
        most = self.behavior.burst_s
        self._calls = min(quota.calls * most, self._calls + quota.calls * elapsed_s)
        self._tokens = min(quota.tokens * most, self._tokens + quota.tokens * elapsed_s)

    def _wait_s(self, now: float, tokens: int) -> float:
        quota = self.phase(now)
        return max((1 - self._calls) / quota.calls, (tokens - self._tokens) / quota.tokens, 0.0)

    def _headers(self, now: float, wait_s: float, *, is_refused: bool) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.behavior.has_headers:
            quota = self.phase(now)
            for name, rate, level in (
                ("requests", quota.calls, self._calls),
                ("tokens", quota.tokens, self._tokens),
            ):
                full_in_s = (rate * self.behavior.burst_s - level) / rate
                headers[f"x-ratelimit-limit-{name}"] = str(int(rate * 60))
                headers[f"x-ratelimit-remaining-{name}"] = str(int(max(0.0, level)))
                headers[f"x-ratelimit-reset-{name}"] = f"{full_in_s:.3f}s"
        if is_refused and self.behavior.retry_after == "exact":
            headers["retry-after"] = f"{wait_s:.3f}"
        elif is_refused and self.behavior.retry_after:
            headers["retry-after"] = self.behavior.retry_after
        return headers


class _Answer(httpx.AsyncByteStream):
    """The events of one answer."""

    def __init__(self, answer_s: float, tokens: int) -> None:
        self._answer_s, self._tokens = answer_s, tokens

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield _event({"content": "a "})
        await asyncio.sleep(self._answer_s)
        usage = {
            "prompt_tokens": max(1, self._tokens - 20),
            "completion_tokens": 20,
            "total_tokens": max(21, self._tokens),
        }
        yield _event({"content": "b"}, finish="stop")
        yield _event({}, usage=usage)
        yield b"data: [DONE]\n\n"


def _event(delta: dict[str, str], finish: str | None = None, **more: Any) -> bytes:
    choices = [] if more else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return f"data: {json.dumps({**chunk, 'choices': choices, **more})}\n\n".encode()
