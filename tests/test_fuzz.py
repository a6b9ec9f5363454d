"""Wrong values for every public call: answered, or refused with an error of the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_adapters import read_request
from aios_core import Agent, InvalidRequest, Kernel, KernelConfig
from aios_core.config import StateConfig
from aios_core.cores.scripted import ScriptedCore

from . import config_fuzz, fuzz

pytestmark = pytest.mark.filterwarnings("ignore::aios_core.grants.ShareWarning")

FEW = 4  # rounds of all calls in the ordinary suite
MANY = 160


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.chdir(tmp_path)
    config = KernelConfig.load(
        environ={},
        state={"directory": str(tmp_path / "state")},
        access={"approver": "deny"},
        guard={"max_repeats": "none", "max_calls": "none"},
    )
    with Kernel(config, cores=[ScriptedCore("ok")]) as running:
        yield running


def offences(kernel: Kernel, agent: Agent, rounds: range) -> list[str]:
    found = [
        fuzz.offence(target, f"{number}/{target.title}")
        for number in rounds
        for target in (*fuzz.targets(kernel, agent), *fuzz.constructors())
    ]
    return [one for one in found if one is not None]


def still_serves(kernel: Kernel) -> bool:
    """Return whether another agent is served, and all that the kernel keeps is consistent."""
    other = kernel.spawn("other")
    other.memory.write("notes", "kept")
    kernel.check()
    is_served = other.llm.generate("hi").text == "ok"
    return is_served and other.memory.read("notes") == "kept"


def test_wrong_values_are_refused_as_such(kernel: Kernel) -> None:
    assert offences(kernel, kernel.spawn("alice"), range(FEW)) == []
    assert still_serves(kernel)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_many_wrong_values_are_refused_as_such(kernel: Kernel) -> None:
    assert offences(kernel, kernel.spawn("alice"), range(FEW, MANY)) == []
    assert still_serves(kernel)


def test_every_part_of_the_public_surface_is_called(kernel: Kernel) -> None:
    titles = [target.title for target in fuzz.targets(kernel, kernel.spawn("alice"))]

    assert len(titles) > 150
    assert "Budget" in [target.title for target in fuzz.constructors()]
    for part in ("kernel.spawn", "memory.write", "storage.share", "tools.arun", "llm.astream"):
        assert part in titles


class TestConfiguration:
    def test_a_bad_tree_is_a_configuration_error(self) -> None:
        found = [config_fuzz.offence_of_tree(seed) for seed in range(400)]
        assert [one for one in found if one is not None] == []

    def test_a_bad_variable_is_a_configuration_error(self) -> None:
        found = [config_fuzz.offence_of_variable(seed) for seed in range(400)]
        assert [one for one in found if one is not None] == []

    def test_a_bad_file_is_a_configuration_error(self, tmp_path: Path) -> None:
        found = [config_fuzz.offence_of_file(seed, tmp_path / "aios.toml") for seed in range(300)]
        assert [one for one in found if one is not None] == []

    @pytest.mark.slow
    @pytest.mark.timeout(1_200)
    def test_many_bad_configurations_are_configuration_errors(self, tmp_path: Path) -> None:
        found = [
            one
            for seed in range(1_000, 6_000)
            for one in (
                config_fuzz.offence_of_tree(seed),
                config_fuzz.offence_of_variable(seed),
                config_fuzz.offence_of_file(seed, tmp_path / "aios.toml"),
            )
            if one is not None
        ]
        assert found == []


@pytest.mark.parametrize(
    "part", ["config", "cores", "policy", "observers", "approver", "gatekeeper", "embedder"]
)
def test_a_kernel_of_wrong_parts_is_refused(part: str) -> None:
    config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
    given = {"config": config, "cores": [ScriptedCore("ok")]}
    num_refused = 0
    for wrong in fuzz.POOL:
        value = wrong()
        if value is None:
            continue
        try:
            Kernel(**{**given, part: value})
        except InvalidRequest as exc:
            assert str(exc).startswith((part.removesuffix("s"), "no policy"))  # noqa: PT017
            num_refused += 1

    assert num_refused > 25


def test_a_malformed_body_of_a_framework_is_refused() -> None:
    found = [config_fuzz.offence_of_body(seed, read_request) for seed in range(1_500)]
    assert [one for one in found if one is not None] == []


def test_an_error_names_what_was_wrong_and_what_would_be_right(kernel: Kernel) -> None:
    agent = kernel.spawn("alice")
    with pytest.raises(InvalidRequest, match="limit: got 'many'; allowed: a whole number"):
        agent.memory.search("x", limit="many")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="owner: got 7; allowed: a text, or None"):
        agent.storage.read("/a", owner=7)  # type: ignore[arg-type]


class Text(str):
    """A text with overridden methods."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("foreign")

    def __repr__(self) -> str:
        raise RuntimeError("foreign")


class Unreadable(dict[str, Any]):
    """A mapping with items that cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("foreign")


class Pretender:
    """An object that raises when it is asked for its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("foreign")


def test_arguments_of_foreign_classes_are_taken_for_what_they_hold_or_refused() -> None:
    with Kernel(KernelConfig(state=StateConfig(":memory:")), cores=[ScriptedCore("ok")]) as kernel:
        agent = kernel.spawn("a")

        assert agent.access.check(Text("memory.read"), "read", Text("memory::x")).effect == "allow"
        for refused in (
            lambda: agent.access.check("memory.read", "read", Text("x")),
            lambda: agent.access.check(Text("memory.raed"), "read", "memory::x"),
            lambda: agent.memory.kv("n").put(Unreadable(a="b")),
            lambda: agent.memory.thread("t").append(Unreadable(role="user", content="x")),
            lambda: agent.tools.run("t", Unreadable(a="b")),
            lambda: agent.memory.write("b", Pretender()),  # type: ignore[arg-type]
            lambda: agent.llm.generate(Pretender()),  # type: ignore[arg-type]
            lambda: agent.llm.generate("hi", tools=[Pretender()]),  # type: ignore[list-item]
            lambda: kernel.freeze(Pretender()),  # type: ignore[arg-type]
            lambda: agent.storage.watch(quiet_s="long"),  # type: ignore[arg-type]
            lambda: agent.storage.watch(after="then"),  # type: ignore[arg-type]
            lambda: kernel.load_tools(int),
        ):
            with pytest.raises(InvalidRequest):
                refused()
