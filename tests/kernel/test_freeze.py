"""An agent is written to disk and brought back, its calls in flight included."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from aios_adapters import apassthrough_call, aregister_provider_model
from aios_core import (
    Agent,
    Budget,
    BudgetExceeded,
    Kernel,
    KernelConfig,
    NoSuchObject,
    ProcessState,
    SnapshotError,
    SyscallCancelled,
    Usage,
    tool,
)
from aios_core.config import StateConfig, ToolsConfig
from aios_core.core import Finished
from aios_core.cores import ScriptedCore
from tests.puppet import PATIENCE, PuppetCore, asks, booted, error_of, settled

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
        answers = [await asyncio.wrap_future(pending) for pending in agent.resumed_calls]

        assert (agent.name, agent.group) == ("teller", "tales")
        assert agent._process.priority == 2
        assert agent._process.budget.limits == Budget(tokens=100)
        assert SLOW in [answer.text for answer in answers], "what had begun is told to its end"


async def test_a_call_in_flight_is_paid_once_where_it_is_loaded(tmp_path: Path) -> None:
    async with booted(story_teller()) as kernel:
        agent = kernel.spawn("teller", budget=Budget(tokens=100))
        stream = agent.llm.astream("tell me")
        async with asyncio.timeout(PATIENCE):
            await anext(stream)
        await kernel.asave_agent(agent.pid, tmp_path / "teller")
        assert agent._process.budget.spent.tokens > 0, "what it has had so far"

    async with booted(ScriptedCore("something else", preemptible=True)) as kernel:
        agent = await kernel.aload_agent(tmp_path / "teller")
        answer = await asyncio.wrap_future(agent.resumed_calls[0])
        await settled()

        assert answer.text == SLOW
        assert agent._process.budget.spent.tokens == 2 + 5


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

        with pytest.raises(SnapshotError, match="not the directory of a saved agent"):
            await kernel.asave_agent(agent.pid, tmp_path)
        assert agent.state is ProcessState.ACTIVE
        assert (await agent.llm.agenerate("go on")).text == "a"
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


# --- what a caller makes itself, or holds, cannot be taken elsewhere ------------------------------


async def admitted_call(agent: Agent, leave: asyncio.Event) -> str:
    """A call that a framework makes itself; it holds its slot until it may leave."""
    async with apassthrough_call(agent, "gpt", messages="hi") as slot:
        await slot.run(leave.wait())
        slot.record_usage(Usage(3, 1), "native")
        return "native"


async def test_an_admitted_call_that_waits_is_refused_by_name_and_goes_on(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        await aregister_provider_model("gpt", kernel, slots=1)
        agent, leave = kernel.spawn("writer"), asyncio.Event()
        calls = [asyncio.create_task(admitted_call(agent, leave)) for _ in range(2)]
        await settled()
        _, waiting = sorted(agent._process.live_calls)

        told = f"call {waiting} of agent 'writer' to 'gpt@provider' .*await its answer or cancel it"
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(SnapshotError, match=told):
                await kernel.asave_agent(agent.pid, tmp_path / "writer")

        assert agent.state == "active"
        assert not (tmp_path / "writer").exists()
        leave.set()
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(*calls) == ["native", "native"]


async def test_an_admitted_call_that_runs_ends_before_its_agent_is_saved(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        await aregister_provider_model("gpt", kernel)
        agent, leave = kernel.spawn("writer"), asyncio.Event()
        call = asyncio.create_task(admitted_call(agent, leave))
        await settled()

        saving = asyncio.create_task(kernel.asave_agent(agent.pid, tmp_path / "writer"))
        await settled()
        assert not saving.done()
        leave.set()
        async with asyncio.timeout(PATIENCE):
            await saving

        assert await call == "native"
        assert (await kernel.aload_agent(tmp_path / "writer")).accounting.usage == Usage(3, 1)


async def test_one_that_comes_while_the_agent_freezes_is_refused_and_the_agent_thawed(
    tmp_path: Path,
) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        await aregister_provider_model("gpt", kernel)
        agent, leave = kernel.spawn("writer"), asyncio.Event()
        first = asyncio.create_task(admitted_call(agent, leave))
        await settled()
        saving = asyncio.create_task(kernel.asave_agent(agent.pid, tmp_path / "writer"))
        await settled()
        second = asyncio.create_task(admitted_call(agent, leave))
        await settled()
        leave.set()

        assert isinstance(await error_of(saving), SnapshotError)
        async with asyncio.timeout(PATIENCE):
            assert await asyncio.gather(first, second) == ["native", "native"]


async def test_an_object_in_the_extra_of_a_waiting_call_is_refused_by_its_key(
    tmp_path: Path,
) -> None:
    async with booted(PuppetCore(preemptible=False, slots=1)) as kernel:
        agent, other = kernel.spawn("a"), kernel.spawn("b")
        busy = asks(other)
        await settled()
        waiting = asks(agent, extra={"logits": object()})
        await settled()

        with pytest.raises(SnapshotError, match="'logits', a object"):
            await kernel.asave_agent(agent.pid, tmp_path / "a")
        agent.exit()
        other.exit()
        await asyncio.wait([busy, waiting])


async def test_an_owner_who_cancels_a_loaded_answer_withdraws_that_call_and_no_other(
    tmp_path: Path,
) -> None:
    core = PuppetCore(slots=4)
    async with booted(core) as kernel:
        agent = kernel.spawn("saved")
        lost = asks(agent)
        await settled()
        await kernel.asave_agent(agent.pid, tmp_path / "saved")
        agent.exit()
        await error_of(lost)

    core = PuppetCore(slots=4)
    async with booted(core) as kernel:
        others = [asks(kernel.spawn(f"b{i}")) for i in range(3)]
        await settled()
        loaded = await kernel.aload_agent(tmp_path / "saved")
        await settled()
        assert len(core.runs) == 4
        loaded.resumed_calls[0].cancel()
        core.tell(*[Finished(run_id, core.completion(run_id)) for run_id in core.runs])
        core.runs.clear()

        assert [(await other).text for other in others] == ["done"] * 3
        assert not loaded._process.live_calls


# --- what an agent has in addition to its calls ---------------------------------------------------


def with_state(directory: Path) -> KernelConfig:
    return KernelConfig(
        drain_s=0.0,
        state=StateConfig(directory=str(directory)),
        tools=ToolsConfig(plugins=()),
    )


@tool(read_only=True, trusted=True)
def echo() -> str:
    """Return a text."""
    return "said"


async def test_an_agent_that_used_memory_files_and_tools_is_saved_and_finds_all_of_it_again(
    tmp_path: Path,
) -> None:
    config = with_state(tmp_path / "state")
    async with Kernel(config, cores=[ScriptedCore("hi")]) as kernel:
        await kernel.aload_tools(echo)
        (first, agent) = [await kernel.aspawn("worker", group="team") for _ in range(2)]
        await agent.memory.awrite("note", "remember")
        await agent.storage.awrite("/report.txt", "a file")
        await agent.tools.arun("echo", {})
        await agent.llm.agenerate("hello")
        await kernel.asave_agent(agent.pid, tmp_path / "worker")
        saved = (agent.identity, agent.accounting)
        assert first.identity == "team/worker"

    async with Kernel(config, cores=[ScriptedCore("hi")]) as kernel:
        agent = await kernel.aload_agent(tmp_path / "worker")

        assert (agent.identity, agent.accounting) == saved
        assert agent.accounting.num_requests["memory.write"] == 1
        assert await agent.memory.aread("note") == "remember"
        assert await agent.storage.aread_text("/report.txt") == "a file"
        kernel.check()


async def test_labels_are_saved_with_an_agent(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("reader")
        kernel.processes.mark(agent.identity, frozenset({"web", "mail"}))
        await kernel.asave_agent(agent.pid, tmp_path / "reader")

    async with booted(ScriptedCore("a")) as kernel:
        agent = await kernel.aload_agent(tmp_path / "reader")

        assert kernel.processes.get(agent.pid).labels == {"web", "mail"}


async def test_an_agent_loaded_beside_itself_is_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("a", group="g")
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        with caplog.at_level("WARNING"):
            copies = [await kernel.aload_agent(tmp_path / "a") for _ in range(2)]

        assert [one.identity for one in (agent, *copies)] == ["g/a", "g/a~2", "g/a~3"]
        assert "'g/a' is alive; the loaded agent is a copy of it, 'g/a~2'" in caplog.text
        agent.exit()
        assert (await kernel.aload_agent(tmp_path / "a")).identity == "g/a"


async def test_a_child_that_is_loaded_alone_has_its_own_identity_back(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        child = kernel.spawn("aid", parent=kernel.spawn("boss").pid)
        await kernel.asave_agent(child.pid, tmp_path / "aid")

    async with booted(ScriptedCore("a")) as kernel:
        kernel.spawn("aid")

        assert (await kernel.aload_agent(tmp_path / "aid")).identity == "default/boss/aid"


async def test_wall_time_that_was_used_stays_used(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("a", budget=Budget(wall_s=3600))
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        about = tmp_path / "a" / "agent.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), "age_s": 3600.0}))
        agent = await kernel.aload_agent(tmp_path / "a")

        with pytest.raises(BudgetExceeded, match="wall time"):
            await agent.llm.agenerate("hello")


async def test_what_an_older_format_saved_is_loaded_still(tmp_path: Path) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("a", group="g")
        await agent.llm.agenerate("hello")
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        agent.exit()
        about = tmp_path / "a" / "agent.json"
        raw = json.loads(about.read_text())
        for key in ("identity", "labels", "age_s"):
            del raw[key]
        about.write_text(json.dumps({**raw, "format": 1}))
        agent = await kernel.aload_agent(tmp_path / "a")

        assert (agent.identity, agent.accounting.num_calls) == ("g/a", 1)


@pytest.mark.parametrize(
    "damage",
    [
        {"identity": "g/other"},
        {"identity": None},
        {"labels": "web"},
        {"labels": [1]},
        {"age_s": float("nan")},
        {"age_s": -1},
        {"name": ""},
        {"accounting": {"usage": {"input_tokens": 1, "nonsense": 2}}},
    ],
    ids=repr,
)
async def test_a_saved_agent_with_nonsense_in_it_is_refused(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    async with booted(ScriptedCore("a")) as kernel:
        agent = kernel.spawn("a", group="g")
        await kernel.asave_agent(agent.pid, tmp_path / "a")
        agent.exit()
        about = tmp_path / "a" / "agent.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), **damage}))

        with pytest.raises(SnapshotError):
            await kernel.aload_agent(tmp_path / "a")
        assert len(kernel.processes) == 0
