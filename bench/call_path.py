"""The way of one call through the code: the files it enters, and how often it changes file.

One warm call of each kind, with its caller on the kernel's loop, is followed with
`sys.setprofile`. What runs on other threads is not followed. Only functions of `aios_core` count.

    python bench/call_path.py [--quick] [--steps]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from _report import show, write

import aios_core
from aios_core import Agent, Kernel, KernelConfig, tool
from aios_core.config import AccessConfig, StateConfig
from aios_core.cores.scripted import ScriptedCore

ROOT = Path(aios_core.__file__).resolve().parent
WARM_UP = 20

Action = Callable[[Agent, int], Awaitable[Any]]


@dataclass
class CallPath:
    """The functions of the package that one call entered, in their order, as (file, name)."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(ROOT)):
            self.steps.append((code.co_filename[len(str(ROOT)) + 1 :], code.co_qualname))

    @property
    def files(self) -> list[str]:
        """The files in the order in which they were first entered."""
        return list(dict.fromkeys(file for file, _ in self.steps))

    @property
    def num_changes(self) -> int:
        """Count the steps in another file than the step before."""
        return sum(a[0] != b[0] for a, b in zip(self.steps, self.steps[1:], strict=False))

    def row(self, call: str) -> dict[str, Any]:
        lines = sum(len((ROOT / file).read_text().splitlines()) for file in self.files)
        return {
            "call": call,
            "files": len(self.files),
            "lines": lines,
            "functions": len(set(self.steps)),
            "changes": self.num_changes,
            "steps": len(self.steps),
        }


@tool
def echo(text: str) -> str:
    """Return the text."""
    return text


async def _generate(agent: Agent, _: int) -> None:
    await agent.llm.agenerate("ping")


async def _remember(agent: Agent, number: int) -> None:
    await agent.memory.awrite(f"note {number}", "text")


async def _store(agent: Agent, number: int) -> None:
    await agent.storage.awrite(f"note {number}", "text")


async def _use_tool(agent: Agent, number: int) -> None:
    await agent.tools.arun("echo", {"text": str(number)})


ACTIONS: Mapping[str, Action] = {
    "agent.llm.agenerate": _generate,
    "agent.memory.awrite": _remember,
    "agent.storage.awrite": _store,
    "agent.tools.arun": _use_tool,
}


async def follow(agent: Agent, action: Action) -> CallPath:
    """The path of one call after others have warmed the kernel up."""
    for number in range(WARM_UP):
        await action(agent, number)
    path = CallPath()
    sys.setprofile(path)
    try:
        await action(agent, WARM_UP)
    finally:
        sys.setprofile(None)
    return path


async def follow_all(directory: str) -> dict[str, CallPath]:
    """The path of one call of each kind."""
    config = KernelConfig(state=StateConfig(directory), access=AccessConfig())
    async with Kernel(config, cores=[ScriptedCore("pong")]) as kernel:
        await kernel.aload_tools(echo)
        agent = await kernel.aspawn("agent")
        return {call: await follow(agent, action) for call, action in ACTIONS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="no difference: it takes a second")
    parser.add_argument("--steps", action="store_true", help="print every function of each path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        paths = asyncio.run(follow_all(directory))
    for call, path in paths.items() if options.steps else ():
        print(f"{call}:")
        print("\n".join(f"  {file:40} {name}" for file, name in path.steps), end="\n\n")
    rows = [path.row(call) for call, path in paths.items()]
    columns = {
        "call": "{call}",
        "files": "{files}",
        "lines in them": "{lines:,}",
        "functions": "{functions}",
        "file changes": "{changes}",
        "steps": "{steps}",
    }
    show("One warm call, caller on the kernel's loop", columns, rows)
    write("call_path", rows)


if __name__ == "__main__":
    main()
