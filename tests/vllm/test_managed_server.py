"""A real vLLM server that the kernel runs as its child. Run by `make test-vllm`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from aios_core.cores.vllm.core import VLLMCore
from aios_core.messages import Sampling, parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig

TINY = Path(__file__).parents[2] / "models" / "tiny"
PYTHON = os.environ.get("AIOS_VLLM_PYTHON", "")
CPU_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not Path(PYTHON or "/nowhere").exists(),
        reason="AIOS_VLLM_PYTHON does not name the interpreter of an environment with vLLM",
    ),
]


def ask(text: str) -> LLMGenerate:
    sampling = Sampling(max_tokens=8, temperature=0.0)
    return LLMGenerate(parse_messages(text), sampling=sampling)


async def test_a_server_starts_serves_with_its_signals_and_ends() -> None:
    core = VLLMCore(
        str(TINY),
        ["tiny"],
        python=PYTHON,
        slots=8,
        context_window=1_024,
        tool_parser="hermes",
        args=("--enforce-eager", "--dtype", "float32"),
        env=CPU_ENVIRONMENT,
    )
    rig = Rig(core, timeout_s=60.0)
    await core.start(rig.sink)
    try:
        capacity = core.load().kv_capacity
        long = "what is 12 plus 5? " * 20
        first, again = await rig.generate(ask(long)), await rig.generate(ask(long))
        async with asyncio.timeout(30):
            while not core.load().prefix_hit_tokens:  # noqa: ASYNC110 - read once a second
                await asyncio.sleep(0.1)
        server = core._server
        assert server is not None
        assert server.is_running
    finally:
        await core.close()

    assert core.capabilities.context_window == 1_024
    assert capacity is not None
    assert capacity > 1_024
    assert first.usage.input_tokens == again.usage.input_tokens
    assert first.usage.cached_tokens < again.usage.cached_tokens < again.usage.input_tokens
    assert not server.is_running
