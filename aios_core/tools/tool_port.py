"""Give a running tool access to the kernel on behalf of its caller, until its call ends.

A tool may keep its context or leave a thread behind, but neither can use the kernel once
the call has ended or its caller has stopped waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, Unpack

from aios_core.errors import InvalidRequest, SyscallCancelled
from aios_core.manager import Port
from aios_core.syscalls import Request
from aios_core.tools.protocols import CellOptions, CodeOptions, CodeRunner
from aios_core.tools.requests import ToolRun
from aios_core.tools.sandbox import ExecutionResult, Language

T = TypeVar("T")


class CallState(Protocol):
    """The state of a call: whether it still runs."""

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, or its caller has stopped waiting."""


@dataclass(frozen=True, slots=True)
class ToolPort:
    """The caller's port for the duration of the call, without the right to run tools.

    A tool that waits for another tool could deadlock. Implements `aios_core.manager.Port`.
    """

    _port: Port
    _tool: str
    _call: CallState

    @property
    def identity(self) -> str:
        """The identity of the caller."""
        return self._port.identity

    def call(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make a request as the caller and wait for its answer."""
        self._require_allowed(request)
        return self._port.call(request, timeout_s=timeout_s)

    async def acall(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make a request as the caller without blocking the event loop (async form of `call`)."""
        self._require_allowed(request)
        return await self._port.acall(request, timeout_s=timeout_s)

    def _require_allowed(self, request: Request[Any]) -> None:
        require_running(self._call, self._tool, "port")
        if isinstance(request, ToolRun):
            raise InvalidRequest(
                f"{self._tool} may not run the tool {request.name!r}; only agents run tools"
            )


@dataclass(frozen=True, slots=True)
class ToolCodeRunner:
    """The sandbox for the duration of the call, for its caller alone. Implements `CodeRunner`."""

    _runner: CodeRunner
    _tool: str
    _caller: str
    _call: CallState

    async def run_for(
        self, identity: str, language: Language, code: str, **options: Unpack[CodeOptions]
    ) -> ExecutionResult:
        """Run code on the caller's files, with the options of `CodeRunner.run_for`."""
        self._require_allowed(identity)
        return await self._runner.run_for(identity, language, code, **options)

    async def run_in_session(
        self, identity: str, name: str, code: str, **options: Unpack[CellOptions]
    ) -> ExecutionResult:
        """Run a cell in a session of the caller, as `CodeRunner.run_in_session` does."""
        self._require_allowed(identity)
        return await self._runner.run_in_session(identity, name, code, **options)

    async def end_session(self, identity: str, name: str) -> bool:
        """End a session of the caller. Returns whether there was one of that name."""
        self._require_allowed(identity)
        return await self._runner.end_session(identity, name)

    def _require_allowed(self, identity: str) -> None:
        require_running(self._call, self._tool, "code runner")
        if identity != self._caller:
            raise InvalidRequest(
                f"{self._tool} runs code for {identity!r}; allowed: its caller, {self._caller!r}"
            )


def require_running(call: CallState, tool: str, what: str) -> None:
    """Raise `SyscallCancelled` if a call has ended."""
    if call.is_over:
        raise SyscallCancelled(f"the call of {tool} has ended, and its {what} with it")
