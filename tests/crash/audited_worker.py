"""Write as `worker.py` does, through a whole kernel, and acknowledge audited requests."""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aios_core import Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from tests.crash.worker import main, say


def kernel_on(directory: Path) -> Kernel:
    config = KernelConfig.load(environ={}, state={"directory": str(directory)})
    return Kernel(config, cores=[ScriptedCore("ok")])


async def live(life: int, _seed: int, directory: Path) -> None:
    """Write and share without end, several at a time."""
    async with kernel_on(directory) as kernel:
        alice = await kernel.aspawn("alice")

        async def remember() -> None:
            for number in count():
                await alice.memory.awrite(f"{life}.{number}", "x")
                say(f"memory.write memory:default/alice:{life}.{number}")

        async def store() -> None:
            for number in count():
                path = f"/{life}.{number}"
                await alice.storage.awrite(path, "x")
                say(f"storage.write file:default/alice:{path}")
                await alice.storage.ashare(path, f"default/bob{number}")
                say(f"access.grant file:default/alice:{path}")

        await asyncio.gather(remember(), store())


if __name__ == "__main__":
    main(live)
