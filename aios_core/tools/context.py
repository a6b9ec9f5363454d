"""The context of a running tool: facts of its call, and the kernel with the caller's rights."""

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
    """A flag that is set when a caller stops waiting for its call. Any thread may use it.

    `_lock` guards the callbacks; they run outside of it, since they may block or take locks.
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
        """Whether the call has ended, or its caller has stopped waiting."""
        return self._has_ended or self._event.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep for at most `timeout_s` seconds. Returns whether the call was cancelled."""
        return self._event.wait(timeout_s)

    def set(self) -> None:
        """Cancel the call: set the flag and run the callbacks. Idempotent."""
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
        """Call `callback` on cancellation, on the thread that cancels; now if it has happened."""
        with self._lock:
            if not self._event.is_set():
                if not self._has_ended:
                    self._callbacks.append(callback)
                return
        callback()


@dataclass(frozen=True, slots=True)
class ToolContext:
    """The facts of one call, for its tool. A tool gets it in a parameter of this type."""

    tool: str  # "calculator@1"
    caller: str  # the identity of the calling agent
    call_id: str
    idempotency_key: str  # equal when the same call is repeated, also after a crash
    attempt: int = 1
    labels: frozenset[str] = frozenset()  # of the calling agent: the sources of what it has read
    settings: Mapping[str, Any] = field(default_factory=dict)  # `tools.settings.NAME`
    cancellation: Cancellation = field(default_factory=Cancellation)
    _port: Port | None = None
    _code_runner: CodeRunner | None = None

    @property
    def port(self) -> Port:
        """The caller's port to the kernel, for handles such as `Storage(context.port)`.

        A request through it counts, and is checked, as the caller's own. The port ends with the
        call: later requests raise `SyscallCancelled`.

        Raises:
            InvalidRequest: the tool runs in a process of its own, which has no port.
        """
        if self._port is None:
            raise InvalidRequest(
                f"{self.tool} runs in a process of its own, which has no port to the kernel; "
                "a tool that needs one runs with isolation='thread'"
            )
        return ToolPort(self._port, self.tool, self.cancellation)

    @property
    def code_runner(self) -> CodeRunner:
        """The sandbox for the caller's code, until the call ends.

        Raises:
            SandboxUnavailable: this kernel has no sandbox.
        """
        if self._code_runner is None:
            raise SandboxUnavailable("this kernel has no sandbox; code is not run without one")
        return ToolCodeRunner(self._code_runner, self.tool, self.caller, self.cancellation)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has stopped waiting. A tool that takes long checks it regularly."""
        return self.cancellation.is_set

    def raise_if_cancelled(self) -> None:
        """Raise `SyscallCancelled` if the caller has stopped waiting."""
        if self.is_cancelled:
            raise SyscallCancelled(f"the caller of {self.tool} has stopped waiting")
