"""The simulated device against a real vLLM server: the same calls hit and compute as much."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

BENCH = str(Path(__file__).parents[2] / "bench")
SEEDS = (1, 2, 3, 4)  # one run alone may hit more or less by chance


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    """The modules of the benchmarks, which are scripts next to each other."""
    sys.path.insert(0, BENCH)
    names = ("_vllm_agents", "_vllm_replay", "_vllm_server", "vllm")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(BENCH)


@pytest.fixture(scope="module")
def server(bench: dict[str, ModuleType]) -> Iterator[Any]:
    """A server with a KV memory of 4,096 tokens."""
    servers = bench["_vllm_server"]
    if servers.vllm_python() is None:
        pytest.skip("AIOS_VLLM_PYTHON does not name the interpreter of an environment with vLLM")
    with servers.vllm_server(servers.ServerSettings(servers.SHAPES["tiny"])) as running:
        yield running


@pytest.mark.parametrize("num_agents", [5, 7, 12])
def test_the_device_hits_and_computes_as_much_as_the_server(
    num_agents: int, bench: dict[str, ModuleType], server: Any
) -> None:
    load = bench["_vllm_agents"].Load("replayed", "", num_agents, 6, 400, 250, 4, 0.1)
    costs = bench["_vllm_replay"].measure_costs(server)

    real = [bench["vllm"].run_once(server, load, "direct", seed) for seed in SEEDS]
    simulated = [bench["_vllm_replay"].replay(run, costs) for run in real]

    computed = sum(run["prefill_tokens"] for run in real)
    queried = sum(use.queried_tokens for use in simulated)
    assert queried == sum(call["prompt_tokens"] for run in real for call in run["calls"])
    assert sum(use.computed_tokens for use in simulated) == pytest.approx(computed, rel=0.1)
    hits = 1 - sum(use.computed_tokens for use in simulated) / queried
    assert hits == pytest.approx(1 - computed / queried, abs=0.1)


def test_through_the_kernel_the_server_computes_far_fewer_prompt_tokens(
    bench: dict[str, ModuleType], server: Any
) -> None:
    run_once, load = bench["vllm"].run_once, bench["vllm"].LOADS["saturated"]

    direct = run_once(server, load, "direct", 1)
    on_kernel = run_once(server, load, "auto", 1)

    assert on_kernel["prefill_tokens"] <= 0.6 * direct["prefill_tokens"]
