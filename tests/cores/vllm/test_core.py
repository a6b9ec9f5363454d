"""A vLLM server that the kernel runs: its start, its crash, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.config import CoreConfig
from aios_core.core import CoreDown, Failed
from aios_core.cores.factory import build_cores
from aios_core.cores.vllm.core import VLLMCore
from aios_core.errors import BackendError, ConfigError, CoreError, ModelLoadError
from aios_core.events import EventKind, KernelEvent
from aios_core.messages import parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig

from .rig import alive, make_core, options, running, servers, stages

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="descendants are found by /proc"),
]


def ask(text: str = "one two three") -> LLMGenerate:
    return LLMGenerate(parse_messages(text))


async def until(holds: Any) -> None:
    """Wait for what another process does; asked often, since nothing else shows it."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_started_server_answers_and_reports_its_memory(pids: Path) -> None:
    async with running(make_core(pids)) as rig:
        answer = await rig.generate(ask())
        load, capabilities = rig.core.load(), rig.core.capabilities

    assert answer.text == "one two three "
    assert (load.kv_capacity, capabilities.context_window) == (1_600, 512)
    assert capabilities.preemptible


async def test_the_stages_of_a_start_are_reported_in_order(pids: Path) -> None:
    async with running(make_core(pids)) as rig:
        await rig.until(lambda: "ready" in stages(rig), "the stage")

        assert stages(rig) == [
            "starting the server",
            "loading the weights",
            "allocating KV memory",
            "ready",
        ]


async def test_close_ends_the_server_and_its_workers(pids: Path) -> None:
    async with running(make_core(pids)):
        assert len(alive(pids)) == 2

    assert alive(pids) == []


async def test_a_server_that_ignores_the_request_to_end_is_killed(pids: Path) -> None:
    async with running(make_core(pids, {"ignore_term": True}, stop_s=0.2)):
        pass

    assert alive(pids) == []


async def test_a_failed_start_shows_the_end_of_the_log(pids: Path) -> None:
    rig = Rig(make_core(pids, {"fail": "no room for the model"}))

    with pytest.raises(CoreError, match="ended with status 1") as caught:
        await rig.core.start(rig.sink)

    assert "ValueError: no room for the model" in str(caught.value)
    assert alive(pids) == []


async def test_a_server_that_is_never_ready_is_stopped_in_time(pids: Path) -> None:
    core = make_core(pids, {"hang": True}, start_s=3.0)
    rig = Rig(core)

    with pytest.raises(CoreError, match="not ready within 3 s") as caught:
        await core.start(rig.sink)

    assert "Starting to load model" in str(caught.value)
    assert alive(pids) == []


async def test_a_cancelled_start_leaves_no_server(pids: Path) -> None:
    rig = Rig(make_core(pids, {"hang": True}))
    starting = asyncio.create_task(rig.core.start(rig.sink))
    await until(lambda: servers(pids))

    starting.cancel()
    await asyncio.sleep(0)
    starting.cancel()  # a second time, in the middle of the cleanup
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert alive(pids) == []


@pytest.mark.parametrize(
    ("python", "reason"),
    [("/nowhere/python", "No such file"), ("/bin/true", "does not run Python"), (None, "no vLLM")],
)
async def test_an_interpreter_without_vllm_is_named(
    python: str | None, reason: str, pids: Path
) -> None:
    core = make_core(pids, python=python or sys.executable, env={})
    rig = Rig(core)

    with pytest.raises(ModelLoadError, match=reason):
        await core.start(rig.sink)


async def test_a_crash_takes_the_core_down_and_the_next_start_brings_a_new_server(
    pids: Path,
) -> None:
    async with running(make_core(pids)) as rig:
        end = await rig.end(await rig.run(ask("crash")))
        await rig.until(lambda: any(isinstance(r, CoreDown) for r in rig.general), "the fall")
        await rig.core.start(rig.sink)
        answer = await rig.generate(ask())

    assert isinstance(end, Failed)
    assert answer.text == "one two three "
    assert len(servers(pids)) == 2


async def test_a_server_that_dies_idle_takes_the_core_down_with_its_log(pids: Path) -> None:
    async with running(make_core(pids)) as rig:
        os.kill(servers(pids)[0][0], signal.SIGKILL)
        await rig.until(lambda: any(isinstance(r, CoreDown) for r in rig.general), "the fall")
        (down,) = (report for report in rig.general if isinstance(report, CoreDown))

    assert "ended by signal 9" in str(down.error)
    assert "KV cache size" in str(down.error)


async def test_the_kernel_restarts_a_crashed_server_and_reports_its_stages(pids: Path) -> None:
    events: list[KernelEvent] = []
    table = {"kind": "vllm", "path": "some/model", "models": ["tiny"], "options": options(pids)}
    config = KernelConfig(state={"directory": ":memory:"}, cores=[table])
    async with Kernel(config, observers=[events.append]) as kernel:
        agent = await kernel.aspawn("reader")
        os.kill(servers(pids)[0][0], signal.SIGKILL)
        await until(lambda: any(event.kind is EventKind.CORE_DOWN for event in events))
        completion = await agent.llm.agenerate("still here")

    starts = [event.facts["stage"] for event in events if event.kind is EventKind.CORE_STARTING]
    assert completion.text == "still here "
    assert starts.count("ready") == 2
    assert len(servers(pids)) == 2


PROGRAM = """
    import signal, sys
    from aios_core import Kernel, KernelConfig
    config = KernelConfig(state={{"directory": ":memory:"}}, cores=[{table!r}])
    with Kernel(config) as kernel:
        print("up", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
async def test_no_server_outlives_the_program(number: signal.Signals, pids: Path) -> None:
    table = {"kind": "vllm", "path": "some/model", "models": ["tiny"], "options": options(pids)}
    program = textwrap.dedent(PROGRAM).format(table=table)
    with subprocess.Popen(  # noqa: ASYNC220, S603 - it is waited for off the loop
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as owner:
        assert owner.stdout is not None
        assert await asyncio.to_thread(owner.stdout.readline) == "up\n"
        assert len(alive(pids)) == 2
        os.killpg(owner.pid, number)  # as a terminal does
        await asyncio.to_thread(owner.wait, 60)

    await until(lambda: not alive(pids))


# --- configuration --------------------------------------------------------------------------------


def table(**given: Any) -> CoreConfig:
    return CoreConfig("vllm", path="org/some-model", options=given)


def test_a_table_with_replicas_makes_a_core_for_each_gpu() -> None:
    cores = build_cores([table(replicas=2, tensor_parallel=2)])

    assert [core.name for core in cores] == ["vllm-0", "vllm-1"]
    assert [core.models for core in cores] == [("org/some-model",)] * 2
    assert all(isinstance(core, VLLMCore) for core in cores)
    assert [core._settings.gpus for core in cores] == [(0, 1), (2, 3)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": "two"}, "replicas"),
        ({"replicas": 2, "gpus": [0]}, "gpus"),
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"args": ["--port=1"]}, "--port"),
        ({"start_s": 0}, "start_s"),
        ({"gpu": 1}, "gpu"),
    ],
)
def test_a_wrong_option_is_refused_by_name(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        build_cores([table(**given)])


def test_a_kernel_with_no_other_core_raises_why_its_server_does_not_start(pids: Path) -> None:
    given = {**options(pids, fail="no room"), "stop_s": 1.0}
    config = KernelConfig(
        state={"directory": ":memory:"},
        cores=[{"kind": "vllm", "path": "some/model", "options": given}],
    )
    with pytest.raises(BackendError, match="no room"), Kernel(config):
        pass
