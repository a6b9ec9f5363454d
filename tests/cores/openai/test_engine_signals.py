"""The signals that a core reads from the metrics of vLLM and SGLang servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from aios_core.config import CoreConfig
from aios_core.cores.factory import build_cores
from aios_core.cores.openai.core import OpenAICore
from aios_core.cores.openai.engine_signals import EngineSignals
from aios_core.cores.openai.sglang_metrics import read_sglang
from aios_core.cores.openai.vllm_metrics import read_vllm
from aios_core.errors import ConfigError
from aios_core.messages import Usage
from aios_core.snapshot import Snapshot
from aios_core.testing.stub_server import Answer, Raw, StubServer

from .rig import TELL, ask, connected

# Lines of a page of vLLM 0.32, shortened.
VLLM_PAGE = """\
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="32",cpu_kvcache_space_bytes="None",engine="0",\
kv_cache_size_tokens="4096",num_gpu_blocks="129",some="{'a': \\"b\\"}"} 1.0
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 1.2e+03
vllm:prefix_cache_queries_created{engine="0",model_name="tiny"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 320.0
vllm:external_prefix_cache_queries_total{engine="0",model_name="tiny"} 77.0
vllm:num_preemptions_total{engine="0",model_name="tiny"} 5.0
vllm:kv_block_idle_before_evict_seconds_bucket{engine="0",le="10.0",model_name="tiny"} 4.0
vllm:kv_block_idle_before_evict_seconds_count{engine="0",model_name="tiny"} 4.0
vllm:kv_block_idle_before_evict_seconds_sum{engine="0",model_name="tiny"} 10.0
"""
CONFIG = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'

SGLANG_PAGE = """\
sglang:max_total_num_tokens{model_name="m",tp_rank="0",dp_rank="0"} 10000.0
sglang:max_total_num_tokens{model_name="m",tp_rank="0",dp_rank="1"} 10000.0
sglang:token_usage{model_name="m",tp_rank="0",dp_rank="0"} 0.5
sglang:token_usage{model_name="m",tp_rank="0",dp_rank="1"} 0.25
sglang:num_running_reqs{model_name="m",tp_rank="0",dp_rank="0"} 4.0
sglang:num_queue_reqs{model_name="m",tp_rank="0",dp_rank="0"} 1.0
sglang:num_retracted_requests_total{model_name="m",tp_rank="0",dp_rank="0"} 2.0
sglang:prompt_tokens_total{model_name="m"} 900.0
sglang:cached_tokens_total{model_name="m",cache_source="device"} 300.0
sglang:cached_tokens_total{model_name="m",cache_source="host"} 100.0
"""


def test_a_page_of_vllm_gives_memory_queue_preemptions_and_prefix_hits() -> None:
    assert read_vllm(VLLM_PAGE) == EngineSignals(
        kv_tokens=1_024,
        kv_capacity=4_096,
        num_running=3,
        num_waiting=2,
        num_preemptions=5,
        prefix_queried_tokens=1_200,
        prefix_hit_tokens=320,
        idle_before_evict_s=2.5,
    )


def test_an_older_vllm_states_its_memory_in_blocks() -> None:
    signals = read_vllm(f"{CONFIG}vllm:gpu_cache_usage_perc{{}} 0.5\n")

    assert (signals.kv_tokens, signals.kv_capacity) == (800, 1_600)


def test_memory_of_replicas_in_one_vllm_is_counted_once() -> None:
    # Each of two engines states the blocks of both together, and the tokens of one.
    blocks = "".join(
        f'vllm:cache_config_info{{engine="{n}",block_size="16",num_gpu_blocks="200"}} 1.0\n'
        f'vllm:kv_cache_usage_perc{{engine="{n}"}} {use}\n'
        for n, use in enumerate((0.5, 0.25))
    )
    tokens = blocks.replace("block_size", 'kv_cache_size_tokens="1600",block_size')

    for page in (blocks, tokens):
        signals = read_vllm(page)
        assert (signals.kv_tokens, signals.kv_capacity) == (1_200, 3_200)


def test_counters_of_replicas_are_summed() -> None:
    page = "".join(f'vllm:num_preemptions_total{{engine="{n}"}} {n + 1}\n' for n in range(3))

    assert read_vllm(page).num_preemptions == 6


@pytest.mark.parametrize(
    "page",
    ["", "garbage", "vllm:kv_cache_usage_perc{} 0.5\n", 'vllm:cache_config_info{block_size="16'],
)
def test_a_page_without_the_memory_gives_no_capacity(page: str) -> None:
    assert read_vllm(page) == EngineSignals()
    assert read_sglang(page) == EngineSignals()


@pytest.mark.parametrize("share", ["nan", "inf", "-1", "7", "x"])
def test_an_impossible_use_of_memory_is_not_believed(share: str) -> None:
    signals = read_vllm(f"{CONFIG}vllm:kv_cache_usage_perc{{}} {share}\n")

    assert (signals.kv_tokens, signals.kv_capacity) == (0, 1_600)


@pytest.mark.parametrize("blocks", ["9" * 30, "9" * 18, "-5", "1.5", "0", "None", "²"])
def test_an_absurd_memory_is_not_believed(blocks: str) -> None:
    page = f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}"}} 1\n'

    assert read_vllm(page).kv_capacity is None


@pytest.mark.parametrize("count", ["nan", "inf", "-1", "1.5", "1e300", "x"])
def test_an_impossible_counter_counts_as_not_reported(count: str) -> None:
    assert read_vllm(f"vllm:num_preemptions_total{{}} {count}\n") == EngineSignals()
    page = f"vllm:kv_block_idle_before_evict_seconds_count{{}} 2\n\
vllm:kv_block_idle_before_evict_seconds_sum{{}} {count}\n"
    idle_s = read_vllm(page).idle_before_evict_s
    assert idle_s is None or idle_s in (0.75, 5e299)


def test_a_page_of_sglang_sums_its_ranks() -> None:
    assert read_sglang(SGLANG_PAGE) == EngineSignals(
        kv_tokens=7_500,
        kv_capacity=20_000,
        num_running=4,
        num_waiting=1,
        num_preemptions=2,
        prefix_queried_tokens=900,
        prefix_hit_tokens=400,
    )


def test_workers_of_one_sglang_rank_count_once() -> None:
    page = "".join(
        f'sglang:max_total_num_tokens{{tp_rank="{tp}",pp_rank="0",pid="{tp}",dp_rank="0"}} 500.0\n'
        for tp in range(4)
    )

    assert read_sglang(page).kv_capacity == 500


def test_an_older_sglang_states_its_memory_in_pages() -> None:
    page = 'sglang:cache_config_info{num_pages="50",page_size="16"} 1.0\n'

    assert read_sglang(page).kv_capacity == 800


# --- the core -------------------------------------------------------------------------------------


async def test_the_capacity_is_known_before_the_first_call(
    serve: Callable[..., StubServer],
) -> None:
    for server, capacity in (
        (serve(flavor="vllm", metrics=VLLM_PAGE), 4_096),
        (serve(flavor="sglang", metrics=SGLANG_PAGE), 20_000),
    ):
        async with connected(server) as rig:
            assert rig.core.load().kv_capacity == capacity


async def test_the_engines_counters_are_in_the_load_of_the_core(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(flavor="vllm", metrics=VLLM_PAGE)) as rig:
        load = rig.core.load()

    counters = (load.num_engine_preemptions, load.prefix_queried_tokens, load.prefix_hit_tokens)
    assert counters == (5, 1_200, 320)


async def test_the_counters_after_the_last_call_are_read(
    serve: Callable[..., StubServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.cores.openai.metrics_watch.EVERY_S", 0.0)
    server = serve(Answer("word " * 40, token_s=0.001), flavor="vllm", metrics=VLLM_PAGE)
    async with connected(server) as rig:
        run = await rig.run(ask())
        await rig.tokens(run, 3)
        await rig.answer(run)
        server.metrics = VLLM_PAGE.replace("320.0", "400.0")
        async with asyncio.timeout(10):
            while rig.core.load().prefix_hit_tokens != 400:  # noqa: ASYNC110 - it polls, too
                await asyncio.sleep(0)

        assert rig.core.load().kv_tokens in (0, 1_024)


async def test_a_vllm_without_metrics_is_served_without_a_capacity(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(flavor="vllm", metrics="")) as rig:
        assert rig.core.load().kv_capacity is None
        assert (await rig.generate(ask())).text == TELL.text


@pytest.mark.parametrize(("stated", "capacity"), [(2_000, 2_000), (9_000, 4_096), (None, 4_096)])
async def test_a_stated_memory_can_only_be_less_than_the_reported_one(
    stated: int | None, capacity: int, serve: Callable[..., StubServer]
) -> None:
    server = serve(flavor="vllm", metrics=VLLM_PAGE)
    async with connected(server, kv_tokens=stated) as rig:
        assert rig.core.load().kv_capacity == capacity


async def test_a_stated_memory_counts_where_the_server_reports_none(
    serve: Callable[..., StubServer],
) -> None:
    async with connected(serve(), kv_tokens=30_000) as rig:
        assert rig.core.load().kv_capacity == 30_000


async def test_a_page_that_never_ends_is_read_up_to_a_bound(
    serve: Callable[..., StubServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aios_core.cores.openai.metrics_watch.MAX_PAGE_BYTES", 100)
    async with connected(serve(flavor="vllm", metrics="x" * 10_000 + VLLM_PAGE)) as rig:
        assert rig.core.load().kv_capacity is None  # the rest of the page was not read


@pytest.mark.parametrize("flavor", ["vllm", "sglang", "openai"])
async def test_cached_tokens_of_a_stream_arrive_in_the_usage(
    flavor: str, serve: Callable[..., StubServer]
) -> None:
    claimed = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 6}}
    async with connected(serve(Answer("a b c", usage=claimed), flavor=flavor)) as rig:
        assert (await rig.generate(ask())).usage.cached_tokens == 6


async def test_cached_tokens_of_a_whole_answer_arrive_in_the_usage(
    serve: Callable[..., StubServer],
) -> None:
    message = {"role": "assistant", "content": "hello"}
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 6},
    }
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    server = serve(Raw(json.dumps(body).encode(), "application/json"))
    async with connected(server) as rig:
        assert (await rig.generate(ask())).usage == Usage(9, 1, 6)


async def test_a_resumed_answer_counts_no_more_cached_tokens_than_its_prompt_has(
    serve: Callable[..., StubServer],
) -> None:
    claimed = {"prompt_tokens_details": {"cached_tokens": 12}}  # of the prompt and the answer
    earlier = Snapshot("stub", (1, 2), (1_000, 1_001), text="Once upon ")
    async with connected(serve(Answer("Once upon a time", usage=claimed), flavor="vllm")) as rig:
        run = await rig.run(ask(), snapshot=earlier)

        assert (await rig.answer(run)).usage.cached_tokens == 2


def table(**options: int) -> CoreConfig:
    return CoreConfig("openai", models=("m",), base_url="http://x/v1", options=options)


def test_a_stated_memory_is_an_option_of_the_core() -> None:
    with pytest.raises(ConfigError, match="kv_tokens"):
        build_cores([table(kv_tokens=0)])
    (core,) = build_cores([table(kv_tokens=50)])
    assert isinstance(core, OpenAICore)
    assert core.load().kv_capacity == 50
