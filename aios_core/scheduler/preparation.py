"""The way of a call to the queue: approved, if it has to be, and measured by a core."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aios_core.core import Core, Prepared
from aios_core.errors import KernelBug, KernelError, SyscallCancelled
from aios_core.scheduler.call import Call
from aios_core.scheduler.call_endings import Endings
from aios_core.scheduler.recovery import CoreKeeper, as_kernel_error
from aios_core.syscalls import SyscallState
from aios_core.untrusted.third_party import RAISED, describe, pass_on


class Preparation:
    """Prepares calls, at once where that is quick, else in tasks.

    Args:
        on_prepared: takes over a call that was measured.
        watch: keeps a task until it is done, and cancels it when the kernel closes.
    """

    def __init__(
        self,
        keeper: CoreKeeper,
        ends: Endings,
        *,
        loop: asyncio.AbstractEventLoop,
        on_prepared: Callable[[Call, Prepared], None],
        watch: Callable[[asyncio.Future[Any]], object],
    ) -> None:
        self._keeper = keeper
        self._ends = ends
        self._loop = loop
        self._on_prepared = on_prepared
        self._watch = watch

    def await_approval(self, call: Call, approval: Awaitable[None]) -> None:
        """Prepare a call once it is approved; it fails if it is not."""
        call.approval = approval
        call.preparing = asyncio.ensure_future(approval, loop=self._loop)
        self._watch(call.preparing)
        call.preparing.add_done_callback(partial(self._approved, call))

    def prepare(self, call: Call) -> None:
        """Measure the request, on the loop if that is quick, else in a task."""
        core = self._keeper.first_up(call.route) if self._keeper.outages else call.route[0]
        try:
            prepared = core.prepare(call.syscall.request)
            if not isinstance(prepared, Prepared):
                call.preparing = asyncio.ensure_future(prepared, loop=self._loop)
                self._watch(call.preparing)
                call.preparing.add_done_callback(partial(self._prepared, call, core))
                return
        except RAISED as exc:  # whatever it is, it is this caller's answer
            pass_on(exc)
            self._ends.conclude(call, SyscallState.FAILED, error=as_kernel_error(exc, core))
            return
        self._on_prepared(call, prepared)

    def _approved(self, call: Call, done: asyncio.Future[None]) -> None:
        """Somebody answered whether the call may be made."""
        call.preparing = call.approval = None
        error = SyscallCancelled("its approval was") if done.cancelled() else done.exception()
        if call.is_answered:
            return
        if error is None:
            self._ends.attempt(call, self.prepare)
            return
        if not isinstance(error, KernelError):
            error = KernelBug(f"the approval of {call.syscall!r} failed: {describe(error)}")
        self._ends.conclude(call, SyscallState.FAILED, error=error)

    def _prepared(self, call: Call, core: Core, done: asyncio.Future[Prepared]) -> None:
        call.preparing = None
        error = SyscallCancelled("its preparation was") if done.cancelled() else done.exception()
        if call.is_answered:
            return
        if error is None:
            self._ends.attempt(call, self._on_prepared, done.result())
        else:
            self._ends.conclude(call, SyscallState.FAILED, error=as_kernel_error(error, core))
