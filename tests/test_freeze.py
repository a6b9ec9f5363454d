"""An agent is written to disk and brought back, its calls in flight included."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aios_core import (
    Budget,
    BudgetExceeded,
    Kernel,
    KernelConfig,
    NoSuchObject,
    SnapshotError,
    SyscallCancelled,
)
from aios_core.cores import ScriptedCore

from .puppet import PATIENCE, PuppetCore, asks, booted, error_of, settled

SLOW = "one two three four five"


def story_teller() -> ScriptedCore:
    return ScriptedCore(SLOW, token_s=0.01, preemptible=True)


async def test_a_generation_in_flight_goes_on_in_another_kernel(tmp_path: Path) -> None:
    async with booted(story_teller()) as kernel:
        agent = kernel.spawn("teller", group="tales", priority=2, budget=Budget(tokens=100))
        lost = asks(agent, "tell me", max_tokens=20)
        stream = agent.llm.astream("stream to me", max_tokens=20)
        async with asyncio.timeout(PATIENCE):
            await anext(stream)
        await kernel.asave_agent(agent.pid, tmp_path / "teller")
        agent.exit()
        assert isinstance(await error_of(lost), SyscallCancelled)

    core = ScriptedCore("something else", preemptible=True)
    async with booted(core) as kernel:
        agent = await kernel.aload_agent(tmp_path / "teller")
        answers = [await asyncio.wrap_future(pending) for pending in agent.pending]

        assert (agent.name, agent.group) == ("teller", "tales")
        assert agent._process.priority == 2
        assert agent._process.budget.limits == Budget(tokens=100)
        assert SLOW in [answer.text for answer in answers], "what had begun is told to its end"


async def test_what_was_spent_stays_spent(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a b c")) as kernel:
        agent = kernel.spawn("spender", budget=Budget(calls=2))
        await agent.llm.agenerate("once")
        await kernel.asave_agent(agent.pid, tmp_path / "spender")

    async with booted(ScriptedCore("a b c")) as kernel:
        agent = await kernel.aload_agent(tmp_path / "spender")
        await agent.llm.agenerate("twice")

        with pytest.raises(BudgetExceeded):
            await agent.llm.agenerate("thrice")
        assert agent.accounting.num_calls == 3


async def test_saving_twice_keeps_the_latter(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("a")
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        agent.thaw()
        await agent.llm.agenerate("hi")
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        again = await kernel.aload_agent(tmp_path / "a")

        assert again.accounting.num_calls == 1
    assert [path.name for path in tmp_path.glob("*")] == ["a"]  # noqa: ASYNC240


async def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("a")

        with pytest.raises(SnapshotError, match="not a frozen agent"):
            await kernel.asave_agent(agent.pid, tmp_path)
    assert (tmp_path / "precious").read_text() == "data"


@pytest.mark.parametrize("damage", ["missing", "truncated", "newer", "half", "other"])
async def test_a_damaged_directory_is_refused_and_nothing_is_spawned(
    tmp_path: Path, damage: str
) -> None:
    core = PuppetCore()
    async with booted(core) as kernel:
        agent = kernel.spawn("a")
        call = asks(agent)
        await settled()
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        agent.exit()
        await error_of(call)
        about = tmp_path / "a" / "agent.json"
        text = about.read_text()
        raw = json.loads(text)
        if damage == "missing":
            about.unlink()
        elif damage == "truncated":
            about.write_text(text[: len(text) // 2])
        elif damage == "newer":
            about.write_text(json.dumps({**raw, "format": 99}))
        elif damage == "half":
            del raw["calls"][0]["request"]
            about.write_text(json.dumps(raw))
        else:
            about.write_text("[]")

        with pytest.raises(SnapshotError):
            await kernel.aload_agent(tmp_path / "a")
        assert len(kernel.processes) == 0


async def test_an_agent_whose_model_nobody_has_is_refused_and_not_spawned(tmp_path: Path) -> None:
    core = PuppetCore(models=["rare"])
    async with booted(core) as kernel:
        agent = kernel.spawn("a")
        call = asks(agent, model="rare")
        await settled()
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        agent.exit()
        await error_of(call)

    async with booted(PuppetCore()) as kernel:
        with pytest.raises(NoSuchObject, match="rare"):
            await kernel.aload_agent(tmp_path / "a")
        assert len(kernel.processes) == 0


def test_saving_and_loading_from_a_plain_thread(tmp_path: Path) -> None:
    with Kernel(KernelConfig(drain_s=0.0), cores=[story_teller()]) as kernel:
        agent = kernel.spawn("a")
        agent.save(tmp_path / "a")

        assert kernel.load_agent(tmp_path / "a").name == "a"
