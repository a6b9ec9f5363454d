"""Where the agents' model is: behind a plain endpoint as today, or on a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aios_core import EventKind, Kernel, KernelConfig, KernelEvent, tiny_model_path
from aios_core.cores.scripted import ScriptedCore
from compat_bench.baseline_server import NO_KEY, PlainModel, PlainServer, at_once, serve

SLOTS: Final = 16  # contexts that the kernel's core holds at once
TINY: Final = "tiny"
KEY: Final = "OPENAI_API_KEY"  # the environment variable that holds an endpoint's key
MAX_TOKENS: Final = 96  # of an answer; tiny's are shorter


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A plain OpenAI-compatible server; frameworks reach it with the classes that they bring."""

    server: PlainServer
    kept: dict[str, Any] = field(default_factory=dict)  # clients, by driver: made once, as users do
    max_tokens: int = MAX_TOKENS

    @property
    def waits_s(self) -> list[float]:
        """The wait of each call for the model, in seconds. Unknown for a foreign server."""
        return self.server.waits_s


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel in this process; frameworks reach it through their adapters."""

    kernel: Kernel
    model: str | None
    waits_s: list[float]
    kept: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = MAX_TOKENS


Source = Endpoint | KernelSource


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


@dataclass(frozen=True, slots=True)
class Choice:
    """Which model, and where it is."""

    core: str = TINY  # or a directory, a hub's name, the base URL of an OpenAI-compatible server
    model: str = ""  # what a server calls it
    max_tokens: int = MAX_TOKENS

    @property
    def is_endpoint(self) -> bool:
        """Whether the core is a server given by URL."""
        return self.core.startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        """For people, and in requests."""
        return self.model or (TINY if self.core == TINY else Path(self.core).name)


class Models:
    """Makes sources of one model; it is loaded once for all plain endpoints."""

    def __init__(self, choice: Choice | None = None) -> None:
        self._choice = choice or Choice()
        self._plain: PlainModel | None = None

    @contextmanager
    def endpoint(self) -> Iterator[Endpoint]:
        """The model the plain way."""
        choice = self._choice
        if choice.is_endpoint:
            server = PlainServer(choice.core, choice.name, api_key=os.environ.get(KEY) or NO_KEY)
            yield Endpoint(server, max_tokens=choice.max_tokens)
            return
        if self._plain is None:
            path = tiny_model_path() if choice.core == TINY else Path(choice.core)
            self._plain = PlainModel(path)
        with serve(self._plain, choice.name) as server:
            yield Endpoint(server, max_tokens=choice.max_tokens)

    @contextmanager
    def kernel(self, policy: str) -> Iterator[KernelSource]:
        """The model on a kernel with a thread of its own."""
        watch = WaitWatch()
        with Kernel(_config(policy, self._core()), observers=[watch]) as kernel:
            yield KernelSource(kernel, None, watch.waits_s, max_tokens=self._choice.max_tokens)

    def _core(self) -> dict[str, Any]:
        choice = self._choice
        options = {"slots": SLOTS}
        if choice.is_endpoint:
            core: dict[str, Any] = {
                "kind": "openai",
                "base_url": choice.core,
                "models": (choice.name,),
            }
            return core | ({"api_key_env": KEY} if os.environ.get(KEY) else {})
        if choice.core == TINY:
            return {"kind": "tiny", "options": options}
        return {
            "kind": "transformers",
            "path": choice.core,
            "models": (choice.name,),
            "options": options,
        }


@contextmanager
def costless_endpoint() -> Iterator[Endpoint]:
    """Serve an endpoint with a model that answers at once."""
    with serve(at_once, "costless") as server:
        yield Endpoint(server)


@contextmanager
def costless_kernel() -> Iterator[KernelSource]:
    """Run a kernel with a core that answers at once."""
    core = ScriptedCore(lambda _request: "ok", models=("costless",))
    with Kernel(_config("fifo"), cores=[core]) as kernel:
        yield KernelSource(kernel, None, [])


def _config(policy: str, *cores: dict[str, Any]) -> KernelConfig:
    return KernelConfig.load(
        cores=list(cores),
        scheduler={"policy": policy},
        state={"directory": ":memory:"},
        guard={"max_calls": "none", "max_repeats": "none"},
        # Frameworks run code without asking; here the kernel's question is answered with yes.
        access={"approver": "allow"},
    )
