"""Find the agent of an interpreter, and keep the error that ended its turn.

One interpreter is one agent: the given or named one, else a new agent that exits with the
interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from aios_adapters import (
    AgentDirectory,
    AgentRef,
    AgentSettings,
    Caller,
    register_provider_model,
    resolve_model,
)
from aios_core import Agent, Kernel, default_kernel
from aios_core.errors import KernelError
from open_interpreter_aios.errors import as_litellm_error

directory: Final = AgentDirectory()

_NAME: Final = "interpreter"  # of an agent without a given name


class InterpreterAgent:
    """The agent of one interpreter.

    Args:
        interpreter: the interpreter that makes the calls.
        agent: an agent of the kernel, or a name; None for a new agent.
        settings: the settings of an agent that is spawned.
        kernel: None for the default kernel of this process, from the first call on.
    """

    def __init__(
        self,
        interpreter: Any,
        agent: str | Agent | None,
        settings: AgentSettings,
        kernel: Kernel | None,
    ) -> None:
        own = Caller.of_object(interpreter, _NAME)

        def find(name: str | None, settings: AgentSettings) -> tuple[Caller, AgentSettings]:
            return Caller.named(name, settings.group) if name else own, settings

        self._ref = AgentRef(directory, find, agent, settings, kernel)
        self.failure: Exception | None = None  # the error that ended the turn, which `chat` raises

    def use(self) -> AbstractContextManager[Agent]:
        """Provide the interpreter's agent for one call; it does not exit before the block ends."""
        return self._ref.use()

    @contextmanager
    def keep_error(self) -> Iterator[None]:
        """Keep a kernel error that leaves the block, as an instance of LiteLLM's class too.

        Open Interpreter turns errors that pass through it into other errors, or into text.
        """
        try:
            yield
        except KernelError as exc:
            self.failure = as_litellm_error(exc)
            raise self.failure from exc.__cause__

    def register_model(self, model: str) -> None:
        """Give the kernel slots for a provider's model, unless it has them."""
        register_provider_model(model, self._ref.kernel)

    def resolve_model(self, model: str) -> str | None:
        """Return the model to request for the one that the program names."""
        if isinstance(self._ref.agent, Agent):
            return model
        return resolve_model(self._ref.kernel or default_kernel(), model)
