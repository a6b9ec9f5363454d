"""A component's agent is the one that is given, the one that is named, or the caller's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from aios_adapters import AgentDirectory, AgentRef, AgentSettings, Caller
from aios_core import Kernel


class Finder:
    """Finds the callers of a test, one after the other."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def __call__(self, name: str | None, settings: AgentSettings) -> tuple[Caller, AgentSettings]:
        return Caller.named(name or self.names.pop(0), settings.group), settings


@pytest.fixture
def directory() -> AgentDirectory:
    return AgentDirectory()


async def test_a_given_agent_is_used_as_it_is(kernel: Kernel, directory: AgentDirectory) -> None:
    given = await kernel.aspawn("given")
    ref = AgentRef(directory, Finder(), given)
    with ref.use() as on_thread:
        assert on_thread is given
    async with ref.ause() as on_loop:
        assert on_loop is given
    assert ref.located() is ref
    assert ref.name == "given"


def test_a_named_agent_is_spawned_with_its_settings(
    kernel: Kernel, directory: AgentDirectory
) -> None:
    ref = AgentRef(directory, Finder(), "ann", AgentSettings("team"), kernel)
    with ref.use() as agent:
        assert (agent.name, agent.group) == ("ann", "team")
    assert ref.name == "ann"


async def test_a_caller_is_found_at_each_use(kernel: Kernel, directory: AgentDirectory) -> None:
    ref = AgentRef(directory, Finder("one", "two"), kernel=kernel)
    assert ref.name is None
    async with ref.ause() as first:
        assert first.name == "one"
    async with ref.ause() as second:
        assert second.name == "two"


async def test_a_located_reference_keeps_the_caller_it_has_found(
    kernel: Kernel, directory: AgentDirectory
) -> None:
    ref = AgentRef(directory, Finder("one", "two"), kernel=kernel).located()
    with ExitStack() as stack:
        assert (await ref.hold(stack)).name == "one"
    async with ref.ause() as agent:
        assert agent.name == "one"


async def test_each_use_is_inside_the_block_around_it(
    kernel: Kernel, directory: AgentDirectory
) -> None:
    log: list[str] = []

    @contextmanager
    def around() -> Iterator[None]:
        log.append("enter")
        try:
            yield
        except ValueError:
            log.append("error")
            raise
        finally:
            log.append("leave")

    ref = AgentRef(directory, Finder("one", "two"), kernel=kernel, around=around)
    with ref.use():
        assert log == ["enter"]
    with pytest.raises(ValueError, match="late"):
        async with ref.ause():
            raise ValueError("late")
    assert log == ["enter", "leave", "enter", "error", "leave"]
