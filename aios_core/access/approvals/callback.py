"""Ask a function of the program: for a chat bot, a web page, a test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aios_core.access.approvals.approval import ApprovalAnswer, ApprovalRequest, Approver
from aios_core.untrusted.blocking_calls import call_on_thread

Callback = Callable[
    [ApprovalRequest], bool | ApprovalAnswer | Awaitable[bool] | Awaitable[ApprovalAnswer]
]

_MAX_ASKING: Final = 64  # requests that have not been answered


class CallbackApprover:
    """An approver that asks a function, which returns True, False or an `ApprovalAnswer`.

    A coroutine function is awaited on the kernel's loop and must not block it. Any
    other function runs on a thread of its own, which nothing else uses.
    """

    def __init__(self, function: Callback) -> None:
        self._function = function
        self._at_once = asyncio.Semaphore(_MAX_ASKING)

    @classmethod
    def of(cls, approver: Approver | Callback | None) -> Approver | None:
        """Wrap a function as an approver; return an approver unchanged."""
        if approver is None or hasattr(approver, "ask"):
            return approver
        return cls(approver)

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        function = self._function
        if inspect.iscoroutinefunction(function):
            answer = await function(request)
        else:
            async with self._at_once:
                answer = await call_on_thread(partial(function, request), "aios-approver")
            if inspect.isawaitable(answer):
                answer = await answer
        return answer if isinstance(answer, ApprovalAnswer) else ApprovalAnswer(answer is True)
