"""The pytest fixtures, run as a user's tests would run them."""

from __future__ import annotations

import asyncio

import pytest

from aios_core.testing import nothing_left

pytest_plugins = ["pytester"]

HEAD = """
import asyncio, threading
import pytest
pytest_plugins = ["aios_core.testing.pytest_plugin"]
"""


@pytest.fixture
def outcomes(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Run a user's test file. Returns the outcomes."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(HEAD + request.param)
    ran = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-q")
    return ran.parseoutcomes()


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        pytest.param(
            """
def test_echo(kernel, scripted_core):
    assert kernel.spawn("a").llm.generate("hello there").text == "hello there"
    assert len(scripted_core.requests) == 1

async def agent(kernel):
    agent = await kernel.aspawn("a")
    return (await agent.llm.agenerate("hello")).text

def test_from_another_loop(kernel):
    assert asyncio.run(agent(kernel)) == "hello"
""",
            {"passed": 2},
            id="it answers by default",
        ),
        pytest.param(
            """
@pytest.fixture
def script():
    return {"2+2?": "4"}

def test_adds(kernel):
    assert kernel.spawn("adder").llm.generate("2+2?").text == "4"
""",
            {"passed": 1},
            id="the script can be overridden",
        ),
        pytest.param(
            """
@pytest.fixture
def stop():
    stop = threading.Event()
    yield stop
    stop.set()

def test_leaves_a_thread(stop, kernel):
    threading.Thread(target=stop.wait, name="forgotten").start()
""",
            {"passed": 1, "errors": 1},
            id="a thread that is left fails the test",
        ),
        pytest.param(
            """
from pathlib import Path

def test_leaves_a_file(kernel):
    (Path(kernel.config.context.directory) / "forgotten").touch()
""",
            {"passed": 1, "errors": 1},
            id="a file that is left fails the test",
        ),
    ],
    indirect=["outcomes"],
)
def test_a_users_test_file(outcomes: dict[str, int], expected: dict[str, int]) -> None:
    assert outcomes == expected


async def test_a_task_that_is_left_is_named() -> None:
    async def leave_one() -> None:
        with nothing_left(timeout_s=0):
            left.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

    left: list[asyncio.Task[bool]] = []
    with pytest.raises(AssertionError, match=r"left behind: tasks .'forgotten'"):
        await leave_one()
    left[0].cancel()
