"""A source that hangs while it is loaded does not keep other agents from loading."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aios_core import KernelError, Overloaded, ToolError
from aios_core.tools.load_limit import (
    MAX_OF_AGENT,
    MAX_OF_AGENTS,
    MAX_OF_PROGRAM,
    RESERVED,
    LoadLimit,
)

from .rig import PATIENCE, Held, quiet_kernel

HANGS = "import builtins\nbuiltins.aios_test_gate()\n"
FINE = '''
from aios_core import tool

@tool(read_only=True, trusted=True)
def {name}() -> str:
    """Say ok."""
    return "ok"
'''


@pytest.fixture
def gate() -> Iterator[Held]:
    gate = builtins.aios_test_gate = Held()  # type: ignore[attr-defined]
    yield gate
    gate.may_end.set()
    del builtins.aios_test_gate  # type: ignore[attr-defined]


def take(slots: LoadLimit, loader: str | None, number: int) -> int:
    """Return how many of a number of loads are allowed."""
    for taken in range(number):
        try:
            slots.take(loader)
        except Overloaded:
            return taken
    return number


def test_one_agent_takes_no_more_than_its_own() -> None:
    slots = LoadLimit()

    assert take(slots, "alice", 10) == MAX_OF_AGENT
    with pytest.raises(Overloaded, match="tool loads of agent 'alice'"):
        slots.take("alice")

    assert take(slots, "bob", 1) == 1
    slots.give_back("alice")
    assert take(slots, "alice", 10) == 1


def test_the_last_places_are_for_agents_that_load_nothing_else() -> None:
    slots = LoadLimit()

    greedy = sum(take(slots, f"greedy{i}", MAX_OF_AGENT) for i in range(MAX_OF_AGENTS))
    assert greedy == MAX_OF_AGENTS
    assert take(slots, "late", 1) == 0

    slots = LoadLimit()
    pairs = (MAX_OF_AGENTS - RESERVED) // MAX_OF_AGENT
    assert [take(slots, f"a{i}", MAX_OF_AGENT) for i in range(pairs + 1)] == [
        *[MAX_OF_AGENT] * pairs,
        1,
    ]


def test_agents_take_nothing_of_the_programs_and_the_other_way_round() -> None:
    slots = LoadLimit()
    for number in range(MAX_OF_AGENTS):
        take(slots, f"agent{number}", MAX_OF_AGENT)

    assert take(slots, None, 100) == MAX_OF_PROGRAM
    slots.give_back("agent0")
    assert take(slots, "other", 1) == 1


def test_an_agents_loads_that_hang_keep_neither_others_nor_the_program_from_loading(
    tmp_path: Path, gate: Held
) -> None:
    files = {}
    for name in ("hangs", "theirs", "ours"):
        files[name] = tmp_path / f"{name}.py"
        files[name].write_text(HANGS if name == "hangs" else FINE.format(name=name))
    tools = {"load_timeout_s": 0.1}
    with quiet_kernel(tools=tools, approver=lambda _: True) as kernel:
        bad, good = kernel.spawn("bad"), kernel.spawn("good")
        for _ in range(MAX_OF_AGENT):
            with pytest.raises(ToolError, match="its code may hang"):
                bad.tools.load(files["hangs"])
        with pytest.raises(Overloaded, match="tool loads of agent 'default/bad'"):
            bad.tools.load(files["theirs"])
    with quiet_kernel(tools={"load_timeout_s": PATIENCE}, approver=lambda _: True) as kernel:
        bad, good = kernel.spawn("bad"), kernel.spawn("good")
        hung = ThreadPoolExecutor(1)
        loading = hung.submit(bad.tools.load, files["hangs"])
        for _ in range(MAX_OF_AGENT + 1):
            assert gate.began.acquire(timeout=PATIENCE)

        assert good.tools.load(files["theirs"]) == ("theirs@1",)
        assert kernel.load_tools(files["ours"]) == ("ours@1",)
        good.tools.unload("theirs")
        gate.may_end.set()
        assert isinstance(loading.exception(PATIENCE), KernelError)
    hung.shutdown()
