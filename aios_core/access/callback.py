"""Ask a function of the program: for a chat bot, a web page, a test."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from aios_core.access.approval import ApprovalAnswer, ApprovalRequest, Approver

Callback = Callable[
    [ApprovalRequest], bool | ApprovalAnswer | Awaitable[bool] | Awaitable[ApprovalAnswer]
]


class CallbackApprover:
    """Asks `function`, which answers True, False or an `ApprovalAnswer`.

    A coroutine function is awaited on the kernel's loop and must not block it; any
    other function runs on a thread.
    """

    def __init__(self, function: Callback) -> None:
        self._function = function

    @classmethod
    def of(cls, approver: Approver | Callback | None) -> Approver | None:
        """A function as an approver; an approver as it is."""
        if approver is None or hasattr(approver, "ask"):
            return approver
        return cls(approver)

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        function = self._function
        if inspect.iscoroutinefunction(function):
            said = await function(request)
        else:
            said = await asyncio.to_thread(function, request)
            if inspect.isawaitable(said):
                said = await said
        return said if isinstance(said, ApprovalAnswer) else ApprovalAnswer(said is True)
