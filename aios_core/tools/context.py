"""What a running tool may know and use of the kernel: its caller's rights, never more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aios_core.errors import InvalidRequest, SandboxUnavailable, SyscallCancelled
from aios_core.manager import Port
from aios_core.tools.protocols import CodeRunner
from aios_core.tools.tool_port import ToolCodeRunner, ToolPort


class Cancellation:
    """Whether the caller has stopped waiting, or the call has ended. Any thread may use it.

    `_lock` guards the callbacks; they run outside of it.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self._has_ended = False

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    @property
    def is_over(self) -> bool:
        """Whether nothing may be done for the call any longer."""
        return self._has_ended or self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep at most that long; True if the call was cancelled meanwhile."""
        return self._event.wait(timeout_s)

    def set(self) -> None:
        """Cancel. Idempotent."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def end(self) -> None:
        """Record that the call has ended. Idempotent."""
        with self._lock:
            self._has_ended = True
            self._callbacks.clear()

    def then(self, callback: Callable[[], object]) -> None:
        """Call this once cancelled, on the thread that cancels; at once if it is already."""
        with self._lock:
            if not self._event.is_set():
                if not self._has_ended:
                    self._callbacks.append(callback)
                return
        callback()


@dataclass(frozen=True, slots=True)
class ToolContext:
    """One call, as its tool sees it. A tool asks for it with a parameter of this type."""

    tool: str  # "calculator@1"
    caller: str  # the identity of the agent that calls
    call_id: str
    idempotency_key: str  # the same when the same call is repeated, also after a crash
    attempt: int = 1
    labels: frozenset[str] = frozenset()  # where what the agent has read comes from
    settings: Mapping[str, Any] = field(default_factory=dict)  # `tools.settings.NAME`
    cancellation: Cancellation = field(default_factory=Cancellation)
    _port: Port | None = None
    _code_runner: CodeRunner | None = None

    @property
    def port(self) -> Port:
        """The caller's way into the kernel, for handles such as `Storage(context.port)`.

        What goes through it is the caller's request, checked as such. It ends with the call:
        later requests raise `SyscallCancelled`. Raises `InvalidRequest` in a process of its
        own, where there is none.
        """
        if self._port is None:
            raise InvalidRequest(f"{self.tool} runs apart from the kernel and has no port")
        return ToolPort(self._port, self.tool, self.cancellation)

    @property
    def code_runner(self) -> CodeRunner:
        """Where the caller's code may run, until the call ends.

        Raises `SandboxUnavailable` where nothing confines it.
        """
        if self._code_runner is None:
            raise SandboxUnavailable("this kernel has no sandbox; code is not run without one")
        return ToolCodeRunner(self._code_runner, self.tool, self.caller, self.cancellation)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has stopped waiting; a tool that takes long asks now and then."""
        return self.cancellation.is_set

    def raise_if_cancelled(self) -> None:
        """Raise `SyscallCancelled` if the caller has stopped waiting."""
        if self.is_cancelled:
            raise SyscallCancelled(f"the caller of {self.tool} has stopped waiting")
