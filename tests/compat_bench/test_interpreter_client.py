"""The driver that speaks to another environment: with a stand-in for it, and with the real one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_core import EventKind, Kernel, KernelConfig, ToolCall
from aios_core.config import StateConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.testing import EventWatcher
from aios_core.testing.event_watcher import FOREVER_S
from compat_bench import interpreter_client
from compat_bench.backends import Endpoint, KernelSource, costless_endpoint, costless_kernel
from compat_bench.interpreter_client import OpenInterpreterDriver, RemoteFailure, WorkerGone
from compat_bench.tasks import Outcome, SeenCall, make_tasks

(TALK,) = make_tasks(["plain talk"], 1)
(CODE,) = make_tasks(["code execution"], 1)

# Does by a word of the system message what the worker might do. Needs no framework.
STAND_IN = """\
import json, os, sys

def tell(what, **facts):
    print(json.dumps({"what": what, **facts}), flush=True)

tell("ready")
for raw in sys.stdin:
    line = json.loads(raw)
    what, number = line["what"], line.get("id")
    if what == "do" and "fail" in line["agent"]:
        tell("broken", id=number, why="ValueError: of the agent")
    elif what == "do" and "die" in line["agent"]:
        sys.exit("the last words")
    elif what in ("do", "say") and "base_url" not in line["where"]:
        waiting = number
        sampling = {"max_tokens": 5, "temperature": 0.0, "stop": []}
        request = {"messages": [{"role": "user", "content": line["agent"]}], "model": None,
                   "tool_choice": "no" if "refused" in line["agent"] else "auto",
                   "tools": [], "sampling": sampling, "extra": {}}
        tell("ask", id=number, call=7, request=request)
        if "withdraw" in line["agent"]:
            tell("cancel", id=number, call=7)
            tell("done", id=number, answers=["withdrawn"], calls=[])
    elif what == "do":
        calls = [["execute", {"language": "python", "code": "1"}]]
        tell("done", id=number, answers=line["says"], calls=calls)
    elif what == "say":
        tell("done", id=number)
    elif what == "end":
        text = line["completion"]["message"]["content"]
        tell("done", id=waiting, answers=[text], calls=[])
    elif what == "failed":
        tell("broken", id=waiting, why=line["why"])
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[OpenInterpreterDriver]:
    program = tmp_path / "worker.py"
    program.write_text(STAND_IN)
    driver = OpenInterpreterDriver([sys.executable, str(program)])
    yield driver
    driver.close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with costless_endpoint() as endpoint:
        yield endpoint


async def test_a_task_goes_over_and_its_outcome_comes_back(
    driver: OpenInterpreterDriver, endpoint: Endpoint
) -> None:
    outcome = await driver.perform(endpoint, TALK, "ann")
    await driver.say(endpoint, "ann")

    assert outcome == Outcome(
        list(TALK.says), [SeenCall("execute", {"language": "python", "code": "1"})]
    )


async def test_calls_of_agents_over_there_are_calls_of_agents_of_the_kernel_here(
    driver: OpenInterpreterDriver,
) -> None:
    watch = EventWatcher()
    core = ScriptedCore(lambda request: f"heard {request.messages[-1].content}")
    config = KernelConfig(state=StateConfig(directory=":memory:"))
    with Kernel(config, cores=[core], observers=[watch]) as kernel:
        outcome = await driver.perform(KernelSource(kernel, None, []), TALK, "ann")

    assert outcome.answers == ["heard ann"]
    assert list(watch.names().values()) == ["ann"]
    assert core.requests[-1].sampling.max_tokens == 5


async def test_an_agent_that_fails_over_there_fails_here_with_the_same_words(
    driver: OpenInterpreterDriver, endpoint: Endpoint
) -> None:
    with pytest.raises(RemoteFailure, match="ValueError: of the agent"):
        await driver.perform(endpoint, TALK, "fail")

    assert await driver.perform(endpoint, TALK, "ann")


async def test_a_refusal_of_the_kernel_is_told_over_there(driver: OpenInterpreterDriver) -> None:
    with costless_kernel() as source, pytest.raises(RemoteFailure, match="InvalidRequest"):
        await driver.perform(source, TALK, "refused")


async def test_a_worker_that_dies_is_said_with_its_last_words_and_started_again(
    driver: OpenInterpreterDriver, endpoint: Endpoint
) -> None:
    with pytest.raises(WorkerGone, match="the last words"):
        await driver.perform(endpoint, TALK, "die")

    assert await driver.perform(endpoint, TALK, "ann")


async def test_a_call_that_is_withdrawn_over_there_frees_its_slot_here(
    driver: OpenInterpreterDriver,
) -> None:
    watch = EventWatcher()
    config = KernelConfig(state=StateConfig(directory=":memory:"))
    core = ScriptedCore("never", latency_s=FOREVER_S)
    with Kernel(config, cores=[core], observers=[watch]) as kernel:
        outcome = await driver.perform(KernelSource(kernel, None, []), TALK, "withdraw")
        await watch.async_wait(EventKind.AGENT_EXITED)

    assert outcome.answers == ["withdrawn"]
    # On a busy machine it may be withdrawn before it was made.
    assert watch.counts[EventKind.CANCELLED] == watch.counts[EventKind.SUBMITTED]


async def test_a_task_that_is_cancelled_here_leaves_no_call_behind(
    driver: OpenInterpreterDriver,
) -> None:
    watch = EventWatcher()
    config = KernelConfig(state=StateConfig(directory=":memory:"))
    core = ScriptedCore("never", latency_s=FOREVER_S)
    with Kernel(config, cores=[core], observers=[watch]) as kernel:
        task = asyncio.create_task(driver.perform(KernelSource(kernel, None, []), TALK, "ann"))
        await watch.async_wait(EventKind.DISPATCHED)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await watch.async_wait(EventKind.CANCELLED)


def test_without_an_environment_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(interpreter_client.PYTHON, str(tmp_path / "python"))

    with pytest.raises(ImportError, match=r"make test-interpreter.*AIOS_INTERPRETER_PYTHON"):
        OpenInterpreterDriver()


# --- the real one --------------------------------------------------------------------------------


@pytest.fixture
def real() -> Iterator[OpenInterpreterDriver]:
    try:
        driver = OpenInterpreterDriver()
    except ImportError as exc:
        pytest.skip(str(exc))
    yield driver
    driver.close()


async def test_open_interpreter_talks_natively_and_on_the_kernel_of_this_process(
    real: OpenInterpreterDriver,
) -> None:
    with costless_endpoint() as endpoint, costless_kernel() as kernel:
        natively = await real.perform(endpoint, TALK, "ann")
        on_the_kernel = await real.perform(kernel, TALK, "ann")
        await real.say(endpoint, "ann")
        await real.say(kernel, "ann")

    assert natively == on_the_kernel
    assert set(natively.answers) == {"ok"}


async def test_on_the_kernel_code_is_a_call_that_a_sandbox_runs_or_refuses(
    real: OpenInterpreterDriver,
) -> None:
    call = CODE.calls[0]
    code = {"language": call.arguments["language"], "code": call.arguments["code"]}

    def writing(request: object) -> object:
        last = request.messages[-1]  # type: ignore[attr-defined]
        if last.role == "tool":
            return f"The output is: {last.content.strip()}"
        return [ToolCall("c", "execute", json.dumps(code))]

    config = KernelConfig(state=StateConfig(directory=":memory:"))
    with Kernel(config, cores=[ScriptedCore(writing)]) as kernel:
        source = KernelSource(kernel, None, [])
        try:
            outcome = await real.perform(source, CODE, "ann")
        except RemoteFailure as exc:
            assert "SandboxUnavailable" in str(exc)  # noqa: PT017 - the error of machines without one
        else:
            assert outcome.is_right(CODE)
