"""A kernel for agents that only run tools, and tools that a test controls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aios_core import Kernel, KernelConfig, Tool
from aios_core.cores.scripted import ScriptedCore
from aios_core.permissions import Access
from aios_core.process import AgentProcess

PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail


class OpenDoor:
    """A gatekeeper that allows everything; access has tests of its own."""

    def authorize(self, process: AgentProcess, access: Access) -> None:
        """Allow it."""

    def record(self, process: AgentProcess, access: Access, outcome: str) -> None:
        """Record nothing."""


def quiet_kernel(state: Path | str = ":memory:", **options: Any) -> Kernel:
    """Make a kernel without plug-ins and approvals, with its state in memory or in a directory."""
    options.setdefault("gatekeeper", OpenDoor())
    tools = {"plugins": (), **options.pop("tools", {})}
    access = options.pop("access", {})
    config = KernelConfig(
        state={"directory": str(state)},  # type: ignore[arg-type]
        tools=tools,  # type: ignore[arg-type]
        access=access,
        drain_s=0.0,
    )
    core = options.pop("core", None) or ScriptedCore(lambda _request: "ok")
    return Kernel(config, cores=[core], **options)


@dataclass
class Held:
    """A function for tools that waits until the test releases it."""

    began: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    may_end: threading.Event = field(default_factory=threading.Event)
    order: list[str] = field(default_factory=list)
    num_at_once: int = 0
    most_at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, who: str = "") -> str:
        with self._lock:
            self.order.append(who)
            self.num_at_once += 1
            self.most_at_once = max(self.most_at_once, self.num_at_once)
        self.began.release()
        ended = self.may_end.wait(PATIENCE)
        with self._lock:
            self.num_at_once -= 1
        assert ended
        return who

    def has_begun(self, times: int = 1) -> bool:
        return all(self.began.acquire(timeout=PATIENCE) for _ in range(times))


TEXT = {"type": "object", "properties": {"who": {"type": "string"}}, "additionalProperties": False}


def make(name: str, function: Callable[..., Any], **declared: Any) -> Tool:
    """Make a tool that is read-only and trusted, unless declared otherwise."""
    declared = {"read_only": True, "trusted": True, "parameters": TEXT, **declared}
    return Tool(name=name, description=name, function=function, **declared)
