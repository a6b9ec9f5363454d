"""Fork children that write until they are killed. Started by `test_kills.py`.

For each line "LIFE SEED DIRECTORY" of its input it forks a child, which has everything imported
already. The output has the child's acknowledgements and, from the parent, "born PID" and "dead".
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash.layer import Layer


async def _live(life: int, seed: int, directory: Path) -> None:
    async with Layer.over(directory) as layer:
        await layer.work(seed, life, say)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one write of less than PIPE_BUF: whole, or not at all


def main(live: Callable[[int, int, Path], Coroutine[Any, Any, None]] = _live) -> None:
    for line in sys.stdin:
        life, seed, directory = line.split(maxsplit=2)
        if (pid := os.fork()) == 0:
            try:
                asyncio.run(live(int(life), int(seed), Path(directory.strip())))
            finally:
                os._exit(1)
        say(f"born {pid}")
        os.waitpid(pid, 0)
        say("dead")


if __name__ == "__main__":
    main()
