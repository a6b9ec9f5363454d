"""LiteLLM's Router with a mock reply under the same load. Prints JSON rows.

Runs in LiteLLM's own environment; `overhead.py` starts it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from _load import measure
from litellm import Router

PARAMS = {"model": "openai/gpt-4o-mini", "api_key": "none", "mock_response": "pong"}
MESSAGES = [{"role": "user", "content": "ping"}]


async def main(seconds: float, sizes: list[int]) -> None:
    router = Router(model_list=[{"model_name": "mock", "litellm_params": PARAMS}])

    async def call(_: int) -> object:
        return await router.acompletion(model="mock", messages=MESSAGES)

    rows = [{"agents": agents, **await measure(call, agents, seconds)} for agents in sizes]
    print(json.dumps(rows))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(main(float(sys.argv[1]), [int(size) for size in sys.argv[2:]]))
