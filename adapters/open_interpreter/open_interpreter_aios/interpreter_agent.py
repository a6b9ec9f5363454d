"""Whose calls an interpreter makes: those of one agent, and how a turn of it came to its end.

One interpreter is one agent: the one that was given or named, else an agent of its own
that ends with the interpreter.
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

_NAME: Final = "interpreter"  # of an agent that nobody named


class InterpreterAgent:
    """See the module.

    Args:
        interpreter: whose calls these are.
        agent: an agent of the kernel, or a name; None for an agent of the interpreter's own.
        settings: of an agent that is spawned.
        kernel: None for the embedded kernel of this process, from the first call on.
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
        self.failure: Exception | None = None  # what ended the turn, for whoever called `chat`

    def use(self) -> AbstractContextManager[Agent]:
        """Provide the interpreter's agent for one call; it does not exit before the block ends."""
        return self._ref.use()

    @contextmanager
    def keep_error(self) -> Iterator[None]:
        """Remember a kernel error that leaves the block, as one of LiteLLM's kind too.

        Open Interpreter makes other errors, or texts, of those that pass through it.
        """
        try:
            yield
        except KernelError as exc:
            self.failure = as_litellm_error(exc)
            raise self.failure from exc.__cause__

    def register_model(self, model: str) -> None:
        """See that the kernel has slots for a provider's model."""
        register_provider_model(model, self._ref.kernel)

    def resolve_model(self, model: str) -> str | None:
        """The model to ask for where the program names one; see `resolve_model`."""
        if isinstance(self._ref.agent, Agent):
            return model
        return resolve_model(self._ref.kernel or default_kernel(), model)
