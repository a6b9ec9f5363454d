"""The packages of ``examples/plugins``, used as if they were installed."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.core import Core
from aios_core.cores import ScriptedCore
from aios_core.testing import run_virtual
from aios_core.testing.core_contract import CoreContract
from tests.example_packages import EXAMPLES

Example = Callable[[str], None]


class TestEchoCoreKeepsTheContract(CoreContract):
    @pytest.fixture(autouse=True)
    def installed(self, example: Example) -> None:
        example("echo_core")

    def make_core(self) -> Core:
        from echo_core import EchoCore  # noqa: PLC0415 - importable once it is installed

        core: Core = EchoCore(token_s=0.001)
        return core


def test_a_core_of_another_package_serves_by_its_kind(example: Example, tmp_path: Path) -> None:
    example("echo_core")
    file = tmp_path / "aios.toml"
    file.write_text("[[cores]]\nkind = 'echo'\noptions = {slots = 2}\n")

    with Kernel(KernelConfig.load(file, environ={})) as kernel:
        assert kernel.spawn("a").llm.generate("over and out", max_tokens=4).text == (
            "over and out over"
        )
        assert kernel.pool["echo"].load().slots == 2


def test_a_policy_of_another_package_runs_the_shortest_expected_job_first(
    example: Example,
) -> None:
    example("shortest_first")
    settings = {"policy": "shortest_first", "options": {"prompt_weight": 0.5}}
    config = KernelConfig.load(environ={}, scheduler=settings)
    core = ScriptedCore("one two three four", token_s=1.0, slots=1)
    ended: list[str] = []

    async def call(kernel: Kernel, name: str, prompt: str, max_tokens: int) -> None:
        agent = await kernel.aspawn(name)
        await agent.llm.agenerate(prompt, max_tokens=max_tokens)
        ended.append(name)

    async def main() -> None:
        import asyncio  # noqa: PLC0415 - of the virtual loop

        async with Kernel(config, cores=[core]) as kernel, asyncio.TaskGroup() as group:
            for name, prompt, limit in (
                ("first", "hi", 4),
                ("long answer", "hi", 3),
                ("long prompt", "hi " * 10, 1),
                ("short", "hi", 1),
            ):
                group.create_task(call(kernel, name, prompt, limit))

    run_virtual(main())

    assert ended == ["first", "short", "long answer", "long prompt"]


@pytest.mark.parametrize("folder", ["echo_core", "shortest_first"])
def test_an_example_is_a_package_that_can_be_built(folder: str, tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder  # noqa: PLC0415 - needed here alone

    loaded = set(sys.modules)
    (wheel,) = WheelBuilder(str(EXAMPLES / folder)).build(directory=str(tmp_path))

    assert Path(wheel).name.startswith("aios_")
    assert folder not in set(sys.modules) - loaded


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/*.py")), ids=lambda file: file.stem)
def test_an_example_needs_nothing_but_public_names(file: Path) -> None:
    public = {"cores", "errors", "messages", "scheduler"}
    imported = re.findall(r"^from (aios_core[\w.]*) import", file.read_text(), re.MULTILINE)

    assert imported
    assert {name.removeprefix("aios_core.") for name in imported} <= public
