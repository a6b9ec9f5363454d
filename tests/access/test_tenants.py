"""One tenant cannot see what another keeps: neither names nor equal contents reveal it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_core import AccessDenied, Agent, Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.storage.collections import CollectionItem

LARGE = b"the same report, page after page. " * 10_000  # kept as a blob, once for all who have it


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    config = KernelConfig.load(environ={}, state={"directory": str(tmp_path / "state")})
    with Kernel(config, cores=[ScriptedCore("ok")]) as running:
        yield running


@pytest.fixture
def alice(kernel: Kernel) -> Agent:
    agent = kernel.spawn("alice", group="ours")
    agent.memory.write("plans", "ours alone")
    agent.memory.kv("space").set("plans", "ours alone")
    agent.memory.thread("plans").append("ours alone")
    agent.storage.write("/plans", LARGE)
    agent.storage.snapshot("plans")
    agent.collections.put("plans", [CollectionItem("plans", "ours alone")])
    return agent


QUESTIONS: dict[str, Callable[[Agent, str, str], Any]] = {
    "memory": lambda bob, name, owner: bob.memory.read(name, owner=owner),
    "a file": lambda bob, name, owner: bob.storage.read(f"/{name}", owner=owner),
    "stat": lambda bob, name, owner: bob.storage.stat(f"/{name}", owner=owner),
    "history": lambda bob, name, owner: bob.storage.history(f"/{name}", owner=owner),
    "a key": lambda bob, name, owner: bob.memory.kv("space", owner=owner).get(name),
    "a thread": lambda bob, name, owner: bob.memory.thread(name, owner=owner).read(),
    "a collection": lambda bob, name, owner: bob.collections.get(name, ["x"], owner=owner),
}


def _refusal(question: Callable[[Agent, str, str], Any], bob: Agent, name: str, owner: str) -> str:
    with pytest.raises(AccessDenied) as caught:
        question(bob, name, owner)
    return str(caught.value).replace(name, "NAME").replace(owner, "OWNER")


@pytest.mark.parametrize("what", QUESTIONS)
def test_a_refusal_does_not_tell_whether_the_name_is_there(
    kernel: Kernel, alice: Agent, what: str
) -> None:
    bob, ask = kernel.spawn("bob", group="theirs"), QUESTIONS[what]

    there = _refusal(ask, bob, "plans", alice.identity)

    assert _refusal(ask, bob, "absent", alice.identity) == there
    assert _refusal(ask, bob, "plans", "ours/nobody") == there


def test_listings_and_searches_hold_ones_own_names_only(kernel: Kernel, alice: Agent) -> None:
    bob = kernel.spawn("bob", group="theirs")

    seen = [
        *bob.memory.list(),
        *bob.memory.search("plans"),
        *bob.storage.list(),
        *bob.memory.kv("space").list(),
    ]

    assert seen == []
    assert alice.memory.list()


def test_equal_contents_of_two_tenants_count_and_live_as_if_each_were_alone(
    kernel: Kernel, alice: Agent
) -> None:
    bob, carol = (kernel.spawn(name, group=name) for name in ("bob", "carol"))
    bob.storage.write("/mine", LARGE)
    carol.storage.write("/mine", bytes(reversed(LARGE)))  # no other agent has it

    assert bob.storage.usage() == carol.storage.usage(), "not cheaper for being known"
    assert bob.storage.stat("/mine").size == carol.storage.stat("/mine").size
    assert len(bob.storage.history("/mine")) == len(carol.storage.history("/mine")) == 1

    alice.storage.delete("/plans")
    alice.storage.purge("/plans")

    assert bob.storage.read("/mine") == LARGE
