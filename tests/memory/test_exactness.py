"""Memory equals a plain dictionary, through evictions and kills."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aios_core import Conflict, InvalidRequest, NoSuchObject, QuotaExceeded
from aios_core.config import MemoryConfig
from aios_core.memory.requests import (
    MemoryAlloc,
    MemoryAppend,
    MemoryClear,
    MemoryClearAll,
    MemoryList,
    MemoryPin,
    MemoryRead,
    MemoryWrite,
)

from .rig import Machine

CONFIG = MemoryConfig(page_bytes=64, resident_bytes=400, correlated_s=2.0, quota_bytes=20_000)
NAMES = ("a", "b", "c", "notes/d")
Value = str | bytes


class Model:
    """The specified behavior of memory, as a dictionary."""

    def __init__(self) -> None:
        self.blocks: dict[str, Value] = {}

    def size(self, name: str) -> int:
        value = self.blocks[name]
        return len(value.encode() if isinstance(value, str) else value)

    def append(self, name: str, value: Any) -> None:
        old = self.blocks.get(name, type(value)())
        if type(old) is not type(value):
            raise InvalidRequest("kind")
        self.blocks[name] = old + value

    def patch(self, name: str, at: int, value: bytes) -> None:
        old = self.blocks[name]
        if not isinstance(old, bytes) or at > len(old):
            raise InvalidRequest("kind or place")
        self.blocks[name] = old[:at] + value + old[at + len(value) :]


names = st.sampled_from(NAMES)
values = st.one_of(st.text(max_size=150), st.binary(max_size=300))


class Memory(RuleBasedStateMachine):
    """Random operations on both; the page cache holds six pages of four blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.machine = Machine(self.directory, CONFIG)
        self.model = Model()

    def teardown(self) -> None:
        self.machine.close()
        shutil.rmtree(self.directory)

    @rule(name=names, value=values)
    def write(self, name: str, value: Value) -> None:
        size = self._on_both(
            MemoryWrite(name, value), lambda: self.model.blocks.__setitem__(name, value)
        )
        assert size in (None, self.model.size(name))

    @rule(name=names, value=values)
    def append(self, name: str, value: Value) -> None:
        self._on_both(MemoryAppend(name, value), lambda: self.model.append(name, value))

    @rule(name=names, at=st.integers(0, 200), value=st.binary(max_size=150))
    def patch(self, name: str, at: int, value: bytes) -> None:
        self._on_both(MemoryWrite(name, value, at), lambda: self.model.patch(name, at, value))

    @rule(name=names, start=st.integers(0, 200), length=st.none() | st.integers(0, 200))
    def read(self, name: str, start: int, length: int | None) -> None:
        stop = None if length is None else start + length
        if name not in self.model.blocks:
            with pytest.raises(NoSuchObject):
                self.machine.ask(MemoryRead(name, start, stop))
            return
        expected = self.model.blocks[name][start:stop]
        assert self.machine.ask(MemoryRead(name, start, stop)) == expected

    @rule(name=names, is_text=st.booleans(), pin=st.booleans())
    def alloc(self, name: str, is_text: bool, pin: bool) -> None:
        if name in self.model.blocks:
            with pytest.raises(Conflict):
                self.machine.ask(MemoryAlloc(name, is_text, pin))
        else:
            self.machine.ask(MemoryAlloc(name, is_text, pin))
            self.model.blocks[name] = "" if is_text else b""

    @rule(name=names, is_pinned=st.booleans())
    def pin(self, name: str, is_pinned: bool) -> None:
        self._on_both(MemoryPin(name, is_pinned), lambda: self.model.blocks[name])

    @rule(name=names)
    def clear(self, name: str) -> None:
        self._on_both(MemoryClear(name), lambda: self.model.blocks.pop(name))

    @rule()
    def clear_notes(self) -> None:
        expected = self.model.blocks.pop("notes/d", None)
        assert self.machine.ask(MemoryClearAll("notes/")) == (expected is not None)

    @rule()
    def kill(self) -> None:
        self.machine.restart()

    @rule()
    def exit(self) -> None:
        self.machine.manager.forget(self.machine.process)

    @invariant()
    def everything_is_equal(self) -> None:
        infos = self.machine.ask(MemoryList())
        assert {one.name: one.size for one in infos} == {
            name: self.model.size(name) for name in self.model.blocks
        }

    def _on_both(self, request: Any, change: Any) -> Any:
        """Change memory and the model: both change, or both refuse and stay as they were."""
        try:
            answer = self.machine.ask(request)
        except QuotaExceeded:
            return None  # a pinned block outgrew its room; nothing changed
        except (NoSuchObject, InvalidRequest) as exc:
            with pytest.raises(KeyError if isinstance(exc, NoSuchObject) else InvalidRequest):
                change()
            return None
        change()
        return answer


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


def churn(machine: Machine, num_operations: int, seed: int) -> None:
    """Run random operations with evictions, exits and restarts, and compare with a dictionary."""
    chance = random.Random(seed)
    model: dict[str, bytes] = {}
    for step in range(num_operations):
        name = f"block {min(chance.randrange(40), chance.randrange(40))}"
        if step % 10_000 == 9_999:
            machine.restart()
        elif chance.random() < 0.002:
            machine.manager.forget(machine.process)
        elif chance.random() < 0.75 and name in model:
            start = chance.randrange(200)
            assert machine.ask(MemoryRead(name, start)) == model[name][start:]
        else:
            change(machine, model, name, chance)
    machine.restart()
    for name, value in model.items():
        assert machine.ask(MemoryRead(name)) == value


def change(machine: Machine, model: dict[str, bytes], name: str, chance: random.Random) -> None:
    """Make one random change in memory and in the dictionary."""
    old, value = model.get(name), chance.randbytes(chance.randrange(100))
    kind = chance.choice(["write", "append", "patch", "clear"])
    if old is None or kind == "write":
        model[name] = value * chance.randrange(4)
        machine.ask(MemoryWrite(name, model[name]))
    elif kind == "append" and len(old) < 600:
        model[name] = old + value
        machine.ask(MemoryAppend(name, value))
    elif kind == "clear" and chance.random() < 0.3:
        del model[name]
        machine.ask(MemoryClear(name))
    else:
        at = chance.randrange(len(old) + 1)
        model[name] = old[:at] + value + old[at + len(value) :]
        machine.ask(MemoryWrite(name, value, at))


def test_many_random_operations_equal_a_dictionary(tmp_path: Path) -> None:
    machine = Machine(tmp_path, MemoryConfig(page_bytes=64, resident_bytes=4_000))
    churn(machine, 3_000, seed=1)
    machine.close()


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_million_random_operations_equal_a_dictionary(tmp_path: Path) -> None:
    machine = Machine(tmp_path, MemoryConfig(page_bytes=64, resident_bytes=4_000))
    churn(machine, 1_000_000, seed=2)
    machine.close()
