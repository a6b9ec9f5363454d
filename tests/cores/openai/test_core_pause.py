"""A rate limit with a pause longer than calls may wait keeps no later call waiting."""

from __future__ import annotations

from contextlib import suppress

import pytest

from aios_core import Kernel, KernelConfig, RateLimited
from aios_core.config import SchedulerConfig
from aios_core.cores.openai.core import OpenAICore
from aios_core.cores.scripted import ScriptedCore
from aios_core.testing.stub_server import Answer, Refuse, StubServer

CONFIG = KernelConfig(scheduler=SchedulerConfig(max_retry_s=1))


def test_calls_that_come_during_a_long_pause_are_refused_with_its_length() -> None:
    refusal = Refuse(429, "come back tomorrow", {"Retry-After": "3600"})
    with StubServer([refusal, Answer("too late")], models=["m"]) as server:
        core = OpenAICore(server.base_url, ["m"])
        with Kernel(CONFIG, cores=[core]) as kernel:
            agent = kernel.spawn("a")
            with pytest.raises(RateLimited):
                agent.llm.generate("the first call meets the limit")
            with pytest.raises(RateLimited) as refused:
                agent.llm.generate("the second one comes during the pause")

        assert refused.value.retry_after_s > 3_000
        assert len(server.exchanges) == 1


def test_another_core_of_the_model_serves_during_a_long_pause() -> None:
    refusal = Refuse(429, "come back tomorrow", {"Retry-After": "3600"})
    with StubServer([refusal], models=["m"]) as server:
        cores = [OpenAICore(server.base_url, ["m"]), ScriptedCore("here", models=("m",))]
        with Kernel(CONFIG, cores=cores) as kernel:
            agent = kernel.spawn("a")
            with suppress(RateLimited):  # the one that meets the limit
                agent.llm.generate("the first call")
            answers = {agent.llm.generate(f"call {n}").text for n in range(6)}

        assert answers == {"here"}


def test_the_call_that_meets_a_long_limit_is_tried_on_another_core_of_its_model() -> None:
    refusal = Refuse(429, "come back tomorrow", {"Retry-After": "3600"})
    with StubServer([refusal], models=["m"]) as server:
        cores = [OpenAICore(server.base_url, ["m"]), ScriptedCore("here", models=("m",), slots=1)]
        with Kernel(CONFIG, cores=cores) as kernel:
            agents = [kernel.spawn(f"agent {n}") for n in range(4)]
            calls = [agent.llm.stream("hello") for agent in agents]
            assert ["".join(d.text for d in call) for call in calls] == ["here"] * 4

        assert server.exchanges


def test_a_call_is_refused_once_every_core_of_its_model_asks_for_a_long_pause() -> None:
    refusal = Refuse(429, "come back tomorrow", {"Retry-After": "3600"})
    with (
        StubServer([refusal], models=["m"]) as first,
        StubServer([refusal], models=["m"]) as second,
    ):
        cores = [OpenAICore(s.base_url, ["m"], name=s.base_url) for s in (first, second)]
        with Kernel(CONFIG, cores=cores) as kernel, pytest.raises(RateLimited) as refused:
            kernel.spawn("a").llm.generate("hello")

        assert refused.value.retry_after_s > 3_000
        assert (len(first.exchanges), len(second.exchanges)) == (1, 1)


def test_a_core_that_keeps_no_pause_itself_is_left_for_another_one() -> None:
    limited = [RateLimited("busy", 3_600.0)] * 9
    cores = [
        ScriptedCore(limited, name="limited", models=("m",)),
        ScriptedCore("here", name="free", models=("m",)),
    ]
    with Kernel(CONFIG, cores=cores) as kernel:
        agent = kernel.spawn("a")

        assert [agent.llm.generate(f"call {n}").text for n in range(4)] == ["here"] * 4
        kernel.check()


def test_a_call_that_left_a_limited_core_returns_to_it_if_the_other_one_is_down() -> None:
    gone = Refuse(429, "come back tomorrow", {"Retry-After": "3600"})
    with StubServer([gone], models=["m"]) as server:
        first = ScriptedCore([RateLimited("busy", 3_600.0), "here"], name="first", models=("m",))
        second = OpenAICore(server.base_url, ["m"], name="second")
        with Kernel(CONFIG, cores=[first, second]) as kernel:
            text = kernel.spawn("a").llm.generate("hello").text

    assert text == "here"
