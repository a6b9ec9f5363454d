"""The cost of confinement: a run, and a cell of a session, against a plain Python process.

python bench/sandbox.py [--quick]
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any

from _report import arguments, quantile, show, write

from aios_core.errors import SandboxUnavailable
from aios_core.tools.sandbox import Sandbox

Work = Callable[[], Awaitable[object]]


async def measure(systems: dict[str, Work], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of each, taken in turn, so that what disturbs one disturbs all."""
    took: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, work in systems.items():
            began = time.perf_counter()
            await work()
            took[name].append((time.perf_counter() - began) * 1e3)
    return [
        {
            "system": name,
            "rounds": rounds,
            "p50_ms": quantile(ms, 0.5),
            "p99_ms": quantile(ms, 0.99),
        }
        for name, ms in took.items()
    ]


async def main() -> None:
    rounds = 20 if arguments(__doc__).quick else 200
    sandbox = Sandbox()
    try:
        python = (await sandbox.examine()).python
        session = await sandbox.open_session("bench/one")
        await session.execute("pass")

        def plain() -> object:
            return subprocess.run([python, "-c", "pass"], check=True)  # noqa: S603

        systems: dict[str, Work] = {
            "plain python": lambda: asyncio.to_thread(plain),
            "sandbox, python": lambda: sandbox.run("python", "pass"),
            "sandbox, shell": lambda: sandbox.run("shell", ":"),
            "session, a cell": lambda: session.execute("pass"),
        }
        rows = await measure(systems, rounds)
    except SandboxUnavailable as exc:
        print(f"skipped: {exc}")
        return
    finally:
        await sandbox.close()
    columns = {"system": "{system}", "p50": "{p50_ms:.1f} ms", "p99": "{p99_ms:.1f} ms"}
    show("From asking to the answer, for code that does nothing", columns, rows)
    write("sandbox", rows)


if __name__ == "__main__":
    asyncio.run(main())
