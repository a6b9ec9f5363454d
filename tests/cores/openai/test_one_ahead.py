"""A server with a queue of its own gets one call more than it has slots, so that none is idle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.config import CoreConfig
from aios_core.cores.factory import build_cores
from aios_core.errors import ConfigError
from aios_core.testing.stub_server import Answer, StubServer

NUM_CALLS = 6


async def run_on(server: StubServer, **options: Any) -> list[str]:
    """Answer some calls at once, through a kernel with one core of one slot."""
    table = {
        "kind": "openai",
        "models": ["stub"],
        "base_url": server.base_url,
        "options": {"slots": 1, **options},
    }
    config = KernelConfig(state={"directory": ":memory:"}, cores=[table])
    async with Kernel(config) as kernel:
        agents = [await kernel.aspawn(f"agent-{n}") for n in range(NUM_CALLS)]
        calls = [agent.llm.agenerate(f"call {n}") for n, agent in enumerate(agents)]
        return [completion.text for completion in await asyncio.gather(*calls)]


@pytest.mark.parametrize(
    ("options", "most"), [({}, 2), ({"num_ahead": 0}, 1), ({"num_ahead": 3}, 4)]
)
async def test_the_next_call_waits_at_the_server_and_no_more(
    options: dict[str, int], most: int, serve: Callable[..., StubServer]
) -> None:
    server = serve(Answer("done", token_s=0.02), slots=1)

    assert await run_on(server, **options) == ["done"] * NUM_CALLS
    assert server.max_concurrent == most


async def test_a_negative_number_of_calls_ahead_is_refused() -> None:
    table = CoreConfig("openai", models=("m",), base_url="http://x/v1", options={"num_ahead": -1})

    with pytest.raises(ConfigError, match="num_ahead"):
        build_cores([table])
