"""Run a program natively on one stub server, and substituted on a kernel with another one."""

from collections.abc import Callable
from typing import Any, Final

from langchain_openai import (
    ChatOpenAI,
)

from aios_core import Kernel, KernelConfig, set_default_kernel
from aios_core.cores.openai.core import OpenAICore
from aios_core.launch import install, uninstall
from aios_core.testing.stub_server import Behavior, StubServer

# How a native call differs: it streams only on request; the kernel always streams.
OF_THE_WIRE: Final = {"stream", "stream_options"}
WIDE: Final = 200_000

Program = Callable[[Any], Any]


class Sides:
    """The two servers and what was asked of each."""

    def __init__(self, *script: Behavior, **scheduler: Any) -> None:
        self.native = StubServer(list(script), context_window=WIDE).__enter__()
        self.behind = StubServer(list(script), context_window=WIDE).__enter__()
        core = OpenAICore(
            self.behind.base_url, ["stub"], api_key="x", probe=False, context_window=WIDE
        )
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"}, scheduler=scheduler)
        self.kernel = Kernel(config, cores=[core]).start()

    def close(self) -> None:
        self.kernel.close(0)
        self.native.close()
        self.behind.close()

    def llm(self, kind: Any = ChatOpenAI, **settings: Any) -> Any:
        about = {"model": "stub", "base_url": self.native.base_url, "api_key": "x"}
        return kind(**{**about, "max_retries": 0, **settings})

    def run(self, program: Program) -> tuple[Any, Any]:
        """Return the outcome of the program at the native provider, and on the kernel."""
        native = outcome(program)
        install("langchain")
        former = set_default_kernel(self.kernel)
        try:
            return native, outcome(program)
        finally:
            set_default_kernel(former)
            uninstall()

    def bodies(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return bodies_of(self.native), bodies_of(self.behind)


def outcome(program: Program) -> Any:
    try:
        return program(None)
    except Exception as exc:  # noqa: BLE001 - it is what is compared
        return exc


def bodies_of(server: StubServer) -> list[dict[str, Any]]:
    return [normal(exchange.body) for exchange in server.exchanges]


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request body without its stream options, and with one name for the limit."""
    kept = {key: value for key, value in body.items() if key not in OF_THE_WIRE}
    if "max_completion_tokens" in kept:
        kept["max_tokens"] = kept.pop("max_completion_tokens")
    return kept
