"""Ask through the approval queue, which `aios approvals` answers in another process."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable

from aios_core.access.approvals.approval import ApprovalAnswer, ApprovalRequest
from aios_core.access.approvals.files import ApprovalFiles
from aios_core.shielding import finish_shielded

log = logging.getLogger(__name__)


class QueueApprover:
    """An approver that posts questions as files and polls for answers, on a thread.

    Cancelling the await of a question removes it. `poll_s` is the interval in seconds.
    """

    def __init__(
        self, approval_files: ApprovalFiles, now: Callable[[], float], *, poll_s: float = 0.2
    ) -> None:
        self._files = approval_files
        self._now = now
        self._poll_s = poll_s
        self._taken: set[str] = set()
        self._posting = asyncio.Lock()  # guards _taken while questions are posted

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        posting = asyncio.ensure_future(self._post(request))
        try:
            ticket = await asyncio.shield(posting)
            log.warning("%s", self._instructions(request, ticket))
            while True:
                answer = await asyncio.to_thread(self._files.take, ticket, request.digest)
                if answer is not None:
                    return answer
                await asyncio.sleep(self._poll_s)
        finally:
            await finish_shielded(self._take_down(posting))

    def _instructions(self, request: ApprovalRequest, ticket: str) -> str:
        left_s = max(0.0, request.expires_at - self._now())
        directory = shlex.quote(str(self._files.directory.parent))
        return (
            f"waiting for an approval, for up to {left_s:.0f} s: {request}; answer in another "
            f"terminal: aios approvals approve {ticket} --state-dir {directory} (or deny)"
        )

    async def _post(self, request: ApprovalRequest) -> str:
        async with self._posting:
            taken = frozenset(self._taken)
            ticket = await asyncio.to_thread(self._files.post, request, taken, self._now())
            self._taken.add(ticket)
            return ticket

    async def _take_down(self, posting: asyncio.Future[str]) -> None:
        await asyncio.wait([posting])
        if posting.exception() is None:
            ticket = posting.result()
            await asyncio.to_thread(self._files.withdraw, ticket)
            self._taken.discard(ticket)
