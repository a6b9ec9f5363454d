"""Where the agents' model is: behind a plain endpoint as today, or on a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aios_core import EventKind, Kernel, KernelConfig, KernelEvent, tiny_model_path
from aios_core.cores.scripted import ScriptedCore
from compat_bench.plain_server import PlainModel, PlainServer, at_once, serve

SLOTS: Final = 16  # contexts that the kernel's core holds at once


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A plain OpenAI-compatible server; frameworks reach it with the classes that they bring."""

    server: PlainServer
    kept: dict[str, Any] = field(default_factory=dict)  # clients, by driver: made once, as users do

    @property
    def waits_s(self) -> list[float]:
        """What each call waited for the model."""
        return self.server.waits_s


@dataclass(frozen=True, slots=True)
class OnKernel:
    """A kernel in this process; frameworks reach it through their adapters."""

    kernel: Kernel
    model: str | None
    waits_s: list[float]
    kept: dict[str, Any] = field(default_factory=dict)


Source = Endpoint | OnKernel


class WaitWatch:
    """An observer that notes how long each LLM call waited for its first turn."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self._since: dict[int, float] = {}

    def __call__(self, event: KernelEvent) -> None:
        if event.syscall_id is None:
            return
        if event.kind is EventKind.SUBMITTED:
            self._since[event.syscall_id] = event.at
        elif event.kind is EventKind.DISPATCHED and event.syscall_id in self._since:
            self.waits_s.append(event.at - self._since.pop(event.syscall_id))


class Models:
    """Makes sources of one model; it is loaded once for all plain endpoints."""

    def __init__(self, path: str | None, name: str = "tiny") -> None:
        self._path = path
        self._name = name
        self._plain: PlainModel | None = None

    @contextmanager
    def endpoint(self) -> Iterator[Endpoint]:
        """The model the plain way."""
        if self._plain is None:
            self._plain = PlainModel(Path(self._path) if self._path else tiny_model_path())
        with serve(self._plain, self._name) as server:
            yield Endpoint(server)

    @contextmanager
    def kernel(self, policy: str) -> Iterator[OnKernel]:
        """The model on a kernel with a thread of its own."""
        core: dict[str, Any] = {"kind": "tiny"}
        if self._path is not None:
            core = {"kind": "transformers", "path": self._path, "models": (self._name,)}
        core["options"] = {"max_running": SLOTS}
        watch = WaitWatch()
        with Kernel(_config(policy, core), observers=[watch]) as kernel:
            yield OnKernel(kernel, None, watch.waits_s)


@contextmanager
def costless_endpoint() -> Iterator[Endpoint]:
    """An endpoint whose model answers at once."""
    with serve(at_once, "costless") as server:
        yield Endpoint(server)


@contextmanager
def costless_kernel() -> Iterator[OnKernel]:
    """A kernel whose core answers at once."""
    core = ScriptedCore(lambda _request: "ok", models=("costless",))
    with Kernel(_config("fifo"), cores=[core]) as kernel:
        yield OnKernel(kernel, None, [])


def _config(policy: str, *cores: dict[str, Any]) -> KernelConfig:
    return KernelConfig.load(
        cores=list(cores),
        scheduler={"policy": policy},
        state={"directory": ":memory:"},
        guard={"max_calls": "none", "max_repeats": "none"},
    )
