"""The agent behind a call is kept for as long as its caller lives, and no longer."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aios_adapters import (
    AgentDirectory,
    AgentSettings,
    Caller,
    CallerKind,
    current_caller,
    enclosing_instance,
)
from aios_core import Budget, EventKind, EventLog, Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from aios_core.errors import InvalidRequest


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Thing:
    """An agent object of a framework."""

    def who(self) -> object:
        return enclosing_instance((Thing,))

    async def awho(self) -> object:
        return await self._deeper()

    async def _deeper(self) -> object:
        await asyncio.sleep(0)
        return enclosing_instance((Thing,))

    def inside(self) -> object:
        def closure() -> tuple[object, Thing]:
            return enclosing_instance((Thing,)), self

        return _called(closure)[0]

    def around(self, other: Thing) -> object:
        return other.who()


def _called(function: Callable[[], tuple[object, Thing]]) -> tuple[object, Thing]:
    return function()


def conversation(name: str) -> Caller:
    return Caller(CallerKind.CONVERSATION, name, name)


def names(kernel: Kernel) -> list[str]:
    kernel.check()  # waits its turn: what was posted before has happened
    return sorted(process.name for process in kernel.processes)


# --- who makes a call -----------------------------------------------------------------------------


def test_the_innermost_object_on_the_stack_is_found() -> None:
    outer, inner = Thing(), Thing()

    assert outer.around(inner) is inner
    assert outer.who() is outer
    assert outer.inside() is outer, "a function inside of a method is the object's, too"
    assert enclosing_instance((Thing,)) is None


async def test_an_object_is_found_through_a_chain_of_awaits_but_not_past_a_task() -> None:
    thing = Thing()

    async def other_task() -> object:
        return enclosing_instance((Thing,))

    class Starter(Thing):
        async def start(self) -> object:
            return await asyncio.create_task(other_task())

    assert await thing.awho() is thing
    assert await Starter().start() is None


async def test_a_call_belongs_to_its_task_and_outside_of_one_to_its_thread() -> None:
    async def ask() -> Caller:
        return current_caller()

    one, other = await asyncio.gather(asyncio.create_task(ask()), asyncio.create_task(ask()))
    with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:
        first, second = pool.submit(current_caller).result(), pool.submit(current_caller).result()

    assert one != other
    assert one.kind is CallerKind.TASK
    assert first == second
    assert first.kind is CallerKind.THREAD


def test_an_object_is_one_caller_whatever_it_is_called() -> None:
    one, other = Thing(), Thing()

    assert Caller.of_object(one, "a") == Caller.of_object(one, "b")
    assert Caller.of_object(one, "a") != Caller.of_object(other, "a")


def test_a_calls_metadata_goes_before_the_defaults() -> None:
    defaults = AgentSettings(group="g", weight=2.0)

    said = {"x_priority": "3", "x_budget": {"tokens": 5}, "x_group": None, "other": 1}

    assert defaults.updated(said, "x_") == AgentSettings("g", 3, 2.0, Budget(tokens=5))


@pytest.mark.parametrize(
    "said", [{"weight": "heavy"}, {"budget": {"fuel": 1}}, {"budget": 5}, {"priority": "high"}]
)
def test_bad_metadata_is_refused_by_its_key(said: dict[str, object]) -> None:
    (key,) = said
    with pytest.raises(InvalidRequest, match=f"^{key}: got"):
        AgentSettings().updated(said)


# --- how long its agent lives --------------------------------------------------------------------


def test_an_objects_agent_exits_when_the_object_is_collected(kernel: Kernel) -> None:
    agents, thing = AgentDirectory(), Thing()
    with agents.use(kernel, Caller.of_object(thing, "thing"), AgentSettings()) as agent:
        pass
    with agents.use(kernel, Caller.of_object(thing, "thing"), AgentSettings()) as again:
        assert again is agent

    del thing
    gc.collect()

    assert names(kernel) == []
    assert agents.callers == ()


def test_an_object_collected_on_any_thread_is_noticed(kernel: Kernel) -> None:
    agents, box = AgentDirectory(), [Thing()]
    with agents.use(kernel, Caller.of_object(box[0], "thing"), AgentSettings()):
        pass

    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()

    assert names(kernel) == []


async def test_a_stream_of_a_task_that_is_over_leaves_no_agent(kernel: Kernel) -> None:
    async def ask() -> Caller:
        return current_caller()

    caller, agents = await asyncio.create_task(ask()), AgentDirectory()

    async with agents.ause(kernel, caller, AgentSettings()) as agent:
        assert names(kernel) == [agent.name]

    assert agents.callers == ()
    assert names(kernel) == []


def test_killing_the_agent_of_an_object_is_not_undone_by_its_next_call(kernel: Kernel) -> None:
    agents, thing = AgentDirectory(), Thing()
    with agents.use(kernel, Caller.of_object(thing, "thing"), AgentSettings()) as agent:
        agent.exit()

    with agents.use(kernel, Caller.of_object(thing, "thing"), AgentSettings()) as again:
        assert again is agent


def test_an_agent_is_spawned_as_the_settings_say(kernel: Kernel) -> None:
    settings = AgentSettings("desk", 4, 2.0, Budget(calls=1))

    with AgentDirectory().use(kernel, Caller.named("ann", "desk"), settings) as agent:
        process = kernel.processes.get(agent.pid)
        assert (process.group.name, process.priority, process.weight) == ("desk", 4, 2.0)
        assert process.budget.limits == Budget(calls=1)


def test_an_idle_conversation_is_forgotten_a_named_agent_is_not(kernel: Kernel) -> None:
    time = Time()
    agents = AgentDirectory(idle_s=10, now=time)
    for caller in (conversation("a"), Caller(CallerKind.NAMED, "n", "n")):
        with agents.use(kernel, caller, AgentSettings()):
            pass

    time.now = 11.0
    with agents.use(kernel, conversation("b"), AgentSettings()):
        pass

    assert names(kernel) == ["b", "n"]


def test_the_least_recently_used_agents_go_when_there_are_too_many(kernel: Kernel) -> None:
    agents = AgentDirectory(max_agents=3)
    for name in "abcad":
        with agents.use(kernel, conversation(name), AgentSettings()):
            pass

    assert names(kernel) == ["a", "c", "d"]


def test_an_agent_with_a_call_under_way_stays_until_the_call_ends(kernel: Kernel) -> None:
    agents = AgentDirectory()
    who = Caller(CallerKind.RUN, "r", "r")

    with agents.use(kernel, who, AgentSettings()):
        agents.end(who)
        assert len(names(kernel)) == 1

    assert names(kernel) == []
    agents.check()


async def test_simultaneous_first_calls_get_one_agent(kernel: Kernel) -> None:
    agents = AgentDirectory()

    async def pid() -> int:
        async with agents.ause(kernel, conversation("a"), AgentSettings()) as agent:
            return agent.pid

    assert len(set(await asyncio.gather(*(pid() for _ in range(20))))) == 1


async def test_simultaneous_first_calls_spawn_no_agent_for_nothing(kernel: Kernel) -> None:
    agents, spawned, named = AgentDirectory(), EventLog(), Caller.named("ann")
    kernel.events.subscribe(spawned)

    async def identity(stop: asyncio.Event | None = None) -> str:
        async with agents.ause(kernel, named, AgentSettings()) as agent:
            if stop is not None:
                await stop.wait()
            return agent.identity

    stop = asyncio.Event()
    first, *others = [asyncio.ensure_future(identity(stop)) for _ in range(20)]
    await asyncio.sleep(0)
    first.cancel()  # it is spawning
    stop.set()
    assert set(await asyncio.gather(*others)) == {"default/ann"}
    with pytest.raises(asyncio.CancelledError):
        await first

    kernel.check()
    kinds = [event.kind for event in spawned.events()]
    assert kinds.count(EventKind.AGENT_SPAWNED) <= 2, "the one that was cancelled, and the one"


def test_simultaneous_first_calls_of_threads_spawn_one_agent(kernel: Kernel) -> None:
    agents, spawned = AgentDirectory(), EventLog()
    kernel.events.subscribe(spawned)
    together = threading.Barrier(8)

    def identity(_: int) -> str:
        together.wait()
        with agents.use(kernel, conversation("a"), AgentSettings()) as agent:
            return agent.identity

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(identity, range(8))) == {"default/a"}

    kernel.check()
    kinds = [event.kind for event in spawned.events()]
    assert kinds.count(EventKind.AGENT_SPAWNED) == 1


async def test_a_call_on_a_loops_thread_waits_for_no_task_of_that_loop(kernel: Kernel) -> None:
    agents, caller = AgentDirectory(), conversation("a")

    async def pid() -> int:
        async with agents.ause(kernel, caller, AgentSettings()) as agent:
            return agent.pid

    task = asyncio.ensure_future(pid())
    await asyncio.sleep(0)  # it spawns now, and needs this loop to continue
    with agents.use(kernel, caller, AgentSettings()) as agent:
        assert agent.pid > 0
    await task


def test_a_conversation_whose_agent_was_killed_begins_anew(kernel: Kernel) -> None:
    agents = AgentDirectory()
    with agents.use(kernel, conversation("a"), AgentSettings()) as first:
        first.exit()

    with agents.use(kernel, conversation("a"), AgentSettings()) as second:
        assert second.pid != first.pid


@pytest.fixture
def other_kernel() -> Iterator[Kernel]:
    with Kernel(KernelConfig(), cores=[ScriptedCore("hi")]) as kernel:
        yield kernel


def test_what_is_said_of_a_named_agent_too_late_is_logged_once_by_its_name(
    kernel: Kernel, other_kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    agents, late = AgentDirectory(), Caller.named("late")

    def use(kernel: Kernel, settings: AgentSettings) -> None:
        with agents.use(kernel, late, settings):
            pass

    use(kernel, AgentSettings(priority=3))
    use(kernel, AgentSettings())
    use(kernel, AgentSettings(priority=3))
    use(other_kernel, AgentSettings(budget=Budget(calls=1)))
    assert caplog.messages == [], "nothing was said in vain"

    for _ in range(2):
        use(kernel, AgentSettings(priority=4, budget=Budget(calls=1)))
    (warning,) = caplog.messages
    assert "agent 'late' exists already: its priority and budget" in warning


def test_one_name_is_one_agent_whichever_adapter_asks(kernel: Kernel) -> None:
    caller = Caller.named("ann", "desk")

    with (
        AgentDirectory().use(kernel, caller, AgentSettings("desk")) as one,
        AgentDirectory().use(kernel, caller, AgentSettings("desk")) as other,
    ):
        assert one is other
