"""A memory manager on a state directory, with a process that can be killed and restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from aios_core import (
    Kernel,
    KernelConfig,
)
from aios_core.config import MemoryConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.labels import Labeled
from aios_core.memory import (
    MemoryManager,
)
from aios_core.process import AgentProcess, ProcessTable
from aios_core.state import StateOpener

T = TypeVar("T")


class Machine:
    """Successive managers on one directory, and an agent that uses them."""

    def __init__(self, directory: str | Path, config: MemoryConfig, **options: Any) -> None:
        self.directory = directory
        self.config = config
        self.options = options
        self.time = 0.0
        self._runner = asyncio.Runner()
        self.process = self.spawn("alice")
        self._start()

    def spawn(self, name: str, **settings: Any) -> AgentProcess:
        return ProcessTable().spawn(name, now=0.0, **settings)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def ask(self, request: Any, process: AgentProcess | None = None) -> Any:
        self.time += 1.0
        answer = self.run(self.manager.perform(process or self.process, request))
        self.manager.check()
        return answer.value if isinstance(answer, Labeled) else answer

    def restart(self) -> None:
        """Lose all that is in RAM, as in a crash. The disk has the last answered state."""
        self.close_state()
        self._start()

    def close_state(self) -> None:
        self.run(self.opener.close())

    def close(self) -> None:
        self.close_state()
        self._runner.close()

    def _start(self) -> None:
        self.opener = StateOpener(self.directory, lambda: None)
        self.manager = MemoryManager(
            self.opener, self.config, now=lambda: self.time, **self.options
        )


def kernel_on(directory: str | Path, **memory: Any) -> Kernel:
    config = KernelConfig(state={"directory": str(directory)}, memory=memory, drain_s=1.0)
    return Kernel(config, cores=[ScriptedCore("ok")])
