"""The pool: routing, the least loaded core, fallbacks, and cores that are down."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.core import Core, CoreLoad, ReportSink
from aios_core.cores.pool import FIRST_PROBE_S, MAX_PROBE_S, CorePool, least_loaded
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import BackendError, ConfigError, CoreError, CoreUnavailable, NoSuchObject

DEAD = CoreError("a", "the plug was pulled")


class Loaded(ScriptedCore):
    """A core with the load that a test sets."""

    def __init__(self, name: str, *models: str, fails: Exception | None = None) -> None:
        super().__init__("ok", name=name, models=models or ("m",), slots=4)
        self.told = CoreLoad(4, 0)
        self.fails = fails
        self.is_closed = False

    def load(self) -> CoreLoad:
        return self.told

    async def start(self, sink: ReportSink) -> None:
        if self.fails:
            raise self.fails
        await super().start(sink)

    async def close(self) -> None:
        self.is_closed = True
        await super().close()


def names(cores: Sequence[Core]) -> list[str]:
    return [core.name for core in cores]


def sinks(pool: CorePool) -> dict[str, ReportSink]:
    return {core.name: lambda _: None for core in pool}


# --- routing ----------------------------------------------------------------------------------


def test_a_model_routes_to_the_cores_that_serve_it() -> None:
    pool = CorePool([Loaded("a", "x"), Loaded("b", "x", "y"), Loaded("c", "y")])

    assert names(pool.route("x")) == ["a", "b"]
    assert names(pool.route("y")) == ["b", "c"]


def test_without_a_model_the_first_cores_first_model_is_meant() -> None:
    cores = [Loaded("a", "x"), Loaded("b", "y")]

    assert names(CorePool(cores).route()) == ["a"]
    assert names(CorePool(cores, default_model="y").route(None)) == ["b"]


def test_an_unknown_model_is_refused_and_the_known_are_named() -> None:
    with pytest.raises(NoSuchObject, match=r"no model 'z'; have \['x', 'y'\]"):
        CorePool([Loaded("a", "x", "y")]).route("z")


@pytest.mark.parametrize(
    ("cores", "options"),
    [
        ([], {}),
        ([Loaded("a"), Loaded("a")], {}),
        ([Loaded("a", "x")], {"default_model": "y"}),
        ([Loaded("a", "x")], {"fallbacks": {"x": "y"}}),
        ([Loaded("a", "x")], {"fallbacks": {"y": "x"}}),
    ],
    ids=["no core", "a name twice", "unknown default", "unknown stand-in", "unknown model"],
)
def test_a_pool_that_cannot_work_is_refused(cores: list[Core], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CorePool(cores, **options)


def test_a_stand_in_serves_while_all_cores_of_a_model_are_down() -> None:
    a, b, c = Loaded("a", "x"), Loaded("b", "x"), Loaded("c", "y")
    pool = CorePool([a, b, c], fallbacks={"x": "y"})

    pool.mark_down("a", DEAD, 0.0)
    assert names(pool.route("x")) == ["b"]
    pool.mark_down("b", DEAD, 0.0)
    assert names(pool.route("x")) == ["c"]
    assert pool.serves(c, "x") == "y"
    pool.mark_up("a")
    assert names(pool.route("x")) == ["a"]
    assert pool.serves(a, "x") == "x"
    pool.check()


def test_with_every_core_down_a_call_waits_for_its_own() -> None:
    pool = CorePool([Loaded("a", "x"), Loaded("b", "y")], fallbacks={"x": ["y"]})
    pool.mark_down("a", DEAD, 0.0)
    pool.mark_down("b", DEAD, 0.0)

    assert names(pool.route("x")) == ["a"]
    assert pool.pick(pool.route("x")) is None


# --- the least loaded -------------------------------------------------------------------------


def test_the_emptiest_core_is_picked() -> None:
    a, b = Loaded("a"), Loaded("b")
    a.told, b.told = CoreLoad(4, 3), CoreLoad(64, 10)
    pool = CorePool([a, b])

    assert pool.pick(pool.route()) is b


def test_among_equals_the_one_with_more_memory_left_is_picked() -> None:
    a, b = Loaded("a"), Loaded("b")
    a.told = CoreLoad(4, 1, kv_tokens=900, kv_capacity=1_000)
    b.told = CoreLoad(4, 1, kv_tokens=100, kv_capacity=1_000)
    pool = CorePool([a, b])

    assert pool.pick(pool.route()) is b


def test_equals_take_turns() -> None:
    pool = CorePool([Loaded("a"), Loaded("b"), Loaded("c")])
    picked: list[Core] = []
    for _ in range(9):
        core = pool.pick(pool.route())
        assert core is not None
        assert pool.pick(pool.route()) is core, "a question takes no turn"
        pool.used(core)
        picked.append(core)

    assert Counter(names(picked)) == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(
    "load",
    [CoreLoad(4, 4), CoreLoad(4, 0, is_up=False), CoreLoad(4, 0, available_in_s=1.0)],
    ids=["full", "down", "rate-limited"],
)
def test_a_core_without_room_is_not_picked(load: CoreLoad) -> None:
    a, b = Loaded("a"), Loaded("b")
    a.told = load
    pool = CorePool([a, b])

    assert [pool.pick(pool.route()) for _ in range(3)] == [b, b, b]
    assert pool.pick((a,)) is None


LOADS = st.builds(
    CoreLoad,
    slots=st.integers(1, 8),
    num_running=st.integers(0, 8),
    available_in_s=st.sampled_from([0.0, 1.0]),
    is_up=st.booleans(),
)


@given(st.lists(st.none() | LOADS, max_size=6), st.integers(0, 100))
def test_the_choice_has_room_and_none_with_room_is_emptier(
    loads: list[CoreLoad | None], turn: int
) -> None:
    free = [
        load.num_running / load.slots
        for load in loads
        if load and load.is_up and not load.available_in_s and load.num_running < load.slots
    ]
    chosen = least_loaded(loads, turn)

    if chosen is None:
        assert not free
    else:
        load = loads[chosen]
        assert load is not None
        assert load.num_running / load.slots == min(free)


# --- up and down ------------------------------------------------------------------------------


def test_probes_come_later_with_every_failure_up_to_a_bound() -> None:
    pool = CorePool([Loaded("a")])
    waits = [pool.mark_down("a", DEAD, 100.0) - 100.0 for _ in range(12)]

    assert waits[:3] == [FIRST_PROBE_S, 2 * FIRST_PROBE_S, 4 * FIRST_PROBE_S]
    assert waits[-1] == MAX_PROBE_S
    outage = pool.outage("a")
    assert outage is not None
    assert outage.probe_at == 100.0 + MAX_PROBE_S


def test_a_core_that_came_back_starts_counting_anew() -> None:
    pool = CorePool([Loaded("a")])
    for _ in range(5):
        pool.mark_down("a", DEAD, 0.0)
    pool.mark_up("a")

    assert pool.is_up("a")
    assert pool.outage("a") is None
    assert pool.mark_down("a", DEAD, 0.0) == FIRST_PROBE_S


def test_a_model_without_a_core_says_why_and_when_to_come_back() -> None:
    pool = CorePool([Loaded("a", "x")])
    pool.mark_down("a", DEAD, 10.0)
    error = pool.unavailable("x", 10.2)

    assert isinstance(error, CoreUnavailable)
    assert "the plug was pulled" in str(error)
    assert error.retry_after_s == pytest.approx(FIRST_PROBE_S - 0.2)


def test_an_unknown_core_is_refused() -> None:
    pool = CorePool([Loaded("a")])

    with pytest.raises(NoSuchObject, match="no core 'b'"):
        pool["b"]
    with pytest.raises(NoSuchObject):
        pool.mark_down("b", DEAD, 0.0)


# --- life -------------------------------------------------------------------------------------


async def test_a_core_that_does_not_start_does_not_keep_the_others_from_it() -> None:
    broken, sound = Loaded("a", fails=OSError("no route")), Loaded("b")
    pool = CorePool([broken, sound])
    await pool.start_all(sinks(pool), now=5.0)

    assert not pool.is_up("a")
    assert pool.is_up("b")
    outage = pool.outage("a")
    assert outage is not None
    assert "no route" in str(outage.error)
    assert outage.probe_at == 5.0 + FIRST_PROBE_S
    await pool.close_all()


async def test_if_no_core_starts_each_reason_is_given() -> None:
    cores = [Loaded("a", fails=DEAD), Loaded("b", fails=OSError("no route"))]
    pool = CorePool(cores)

    with pytest.raises(BackendError, match=r"a: .*plug.*b: .*no route"):
        await pool.start_all(sinks(pool), now=0.0)


async def test_a_core_that_fails_to_close_does_not_keep_the_others_open() -> None:
    class Stuck(Loaded):
        async def close(self) -> None:
            raise OSError("stuck")

    pool = CorePool([Stuck("a"), sound := Loaded("b")])
    with pytest.raises(OSError, match="stuck"):
        await pool.close_all()

    assert sound.is_closed


def test_importing_the_cores_imports_no_backend() -> None:
    code = "import sys, aios_core.cores; sys.exit(' '.join(HEAVY & set(sys.modules)))"
    heavy = {"openai", "torch", "transformers", "httpx", "safetensors"}
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code.replace("HEAVY", repr(heavy))],
        check=False,
        capture_output=True,
        text=True,
    )

    assert not done.stderr.strip()
