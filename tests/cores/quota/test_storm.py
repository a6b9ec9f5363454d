"""Many agents on a small quota, through the kernel and the real core, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from aios_core import Kernel, KernelConfig
from aios_core.cores.openai.core import OpenAICore
from aios_core.testing import run_virtual

URL = "https://api.example.com/v1"
RATE, HELD = 5.0, 10.0  # calls in a second, and that the server's bucket holds


class Server(httpx.AsyncBaseTransport):
    """A server with a hidden quota."""

    def __init__(self, *, has_headers: bool) -> None:
        self.has_headers = has_headers
        self.level, self.at = HELD, 0.0
        self.num_served = self.num_refused = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        now = asyncio.get_running_loop().time()
        self.level, self.at = min(HELD, self.level + RATE * (now - self.at)), now
        fits = self.level >= 1
        self.level -= fits
        self.num_served += fits
        self.num_refused += not fits
        headers = self.headers() if self.has_headers else {}
        await asyncio.sleep(0.1)
        if fits:
            headers["content-type"] = "text/event-stream"
            return httpx.Response(200, headers=headers, stream=Answer())
        headers["retry-after"] = f"{(1 - self.level) / RATE:.3f}"
        return httpx.Response(429, headers=headers, json={"error": {"message": "slow down"}})

    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(int(RATE * 60)),
            "x-ratelimit-remaining-requests": str(int(self.level)),
            "x-ratelimit-reset-requests": f"{(HELD - self.level) / RATE:.3f}s",
        }


class Answer(httpx.AsyncByteStream):
    """The events of one answer."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(0.5)
        choice = {"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n".encode()
        yield b"data: [DONE]\n\n"


class Core(OpenAICore):
    """The real core, over a transport in this process."""

    def __init__(self, server: Server) -> None:
        super().__init__(URL, ["m"], probe=False)
        self.server = server

    async def build_client(self) -> openai.AsyncOpenAI:
        http = httpx.AsyncClient(transport=self.server)
        return openai.AsyncOpenAI(base_url=URL, api_key="k", max_retries=0, http_client=http)


async def storm(server: Server, num_agents: int, num_calls: int) -> None:
    async with Kernel(KernelConfig(), cores=[Core(server)]) as kernel:

        async def agent(number: int) -> None:
            one = await kernel.aspawn(f"agent{number}")
            for call in range(num_calls):
                assert (await one.llm.agenerate(f"call {call}", max_tokens=5)).text == "hello"

        await asyncio.gather(*map(agent, range(num_agents)))


@pytest.mark.parametrize(("has_headers", "most_refused"), [(True, 0), (False, 8)])
def test_a_crowd_of_agents_meets_hardly_a_refusal_and_all_of_them_are_answered(
    has_headers: bool, most_refused: int
) -> None:
    server = Server(has_headers=has_headers)

    run_virtual(storm(server, num_agents=60, num_calls=3))

    assert server.num_served == 180
    assert server.num_refused <= most_refused
