"""Run one tool call: wait for a slot, journal effects, retry where allowed, answer.

    slot ──> intent ──> attempt (──> back off ──> slot ──> attempt) ──> outcome ──> answer

Promises: a tool with effects starts only once its intent is durable, and its caller is answered
only once its outcome is durable; an interrupted call is journaled as unknown.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final

from aios_core.clock import Clock
from aios_core.config import ToolsConfig
from aios_core.errors import KernelError, RetryLater, ToolError, ToolInDoubt
from aios_core.labels import with_labels
from aios_core.process import AgentProcess
from aios_core.tools import strict_json
from aios_core.tools.attempt import Result
from aios_core.tools.context import ToolContext
from aios_core.tools.dispatcher import Outcome, ToolDispatcher, ToolHung
from aios_core.tools.journal import Intent, ToolJournal
from aios_core.tools.labeling import LabelingRunner
from aios_core.tools.protocols import CodeRunner, Ports
from aios_core.tools.registry import RegisteredTool, labels_of
from aios_core.tools.requests import StoredResult
from aios_core.tools.results import StoredResults
from aios_core.tools.tool_process import ToolDied
from aios_core.tools.tool_queue import ToolTicket
from aios_core.wait_reason import doing

log = logging.getLogger(__name__)

FIRST_BACKOFF_S: Final = 0.5


class ToolExecutor:
    """Runs tool calls: each from its slot to its answer. Used on the kernel's loop only."""

    def __init__(
        self,
        config: ToolsConfig,
        dispatcher: ToolDispatcher,
        journal: ToolJournal,
        results: StoredResults,
        *,
        clock: Clock,
        ports: Ports,
        code_runner: CodeRunner | None,
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._journal = journal
        self._results = results
        self._clock = clock
        self._ports = ports
        self._code_runner = code_runner
        self._background: set[asyncio.Task[None]] = set()

    async def run(
        self,
        process: AgentProcess,
        registered: RegisteredTool,
        arguments: Mapping[str, Any],
        idempotency_key: str | None,
    ) -> Any:
        """Run a tool with arguments that fit its schema.

        Returns:
            Its answer, wrapped with the labels of its sources if there are any.
        """
        tool = registered.tool
        labels = labels_of(tool) | registered.labels
        call_id = secrets.token_hex(12)
        intent = Intent(
            identity=process.identity,
            tool=tool,
            arguments=arguments,
            call_id=call_id,
            key=idempotency_key or call_id,
            keeps_result=idempotency_key is not None,
            labels=frozenset(process.labels),
        )
        if tool.read_only:
            result = await self._attempts(process, registered, intent)
            answer, _ = await self._answer(process, result, labels)
        else:
            answer, labels = await self._with_effects(process, registered, intent, labels)
        return with_labels(answer, labels)

    async def wait_idle(self) -> None:
        """Wait until all known outcomes are journaled."""
        while self._background:
            await asyncio.wait(self._background)

    # --- inside ------------------------------------------------------------------------------

    async def _with_effects(
        self,
        process: AgentProcess,
        registered: RegisteredTool,
        intent: Intent,
        labels: frozenset[str],
    ) -> tuple[Any, frozenset[str]]:
        """Run a tool between its journaled intent and its journaled outcome.

        Returns:
            The answer and its labels.
        """
        ticket = await self._dispatcher.wait_for_slot(process, intent.tool, registered.queue_name)
        try:
            earlier = await self._journal.begin(intent)
        except BaseException as exc:
            self._dispatcher.drop(ticket)
            if not isinstance(exc, KernelError):  # cancelled: the intent may be written by now
                self._later(self._journal.withdraw(intent))
            raise
        if earlier is not None:
            self._dispatcher.drop(ticket)
            answer, earlier_labels = _restored(earlier)
            return answer, labels | earlier_labels
        try:
            result = await self._attempts(process, registered, intent, ticket)
            answer, kept = await self._answer(process, result, labels)
        except asyncio.CancelledError:
            self._later(self._journal.finish(intent, "unknown"))
            raise
        except (ToolHung, ToolDied) as exc:
            await self._finish(intent, "unknown")
            if intent.tool.is_repeatable:
                raise
            raise ToolInDoubt(
                intent.tool.name,
                f"{exc.message}; it is unknown whether it took effect (agent.tools.in_doubt())",
            ) from exc
        except KernelError:
            await self._finish(intent, "failed")
            raise
        await self._finish(intent, "done", kept)
        return answer, labels

    async def _attempts(
        self,
        process: AgentProcess,
        registered: RegisteredTool,
        intent: Intent,
        ticket: ToolTicket | None = None,
    ) -> Result:
        """Run the tool, and again after a failure as often as it allows."""
        tool = intent.tool
        attempt, left_s = 1, self._config.max_retry_s
        on_late = partial(self._ended_late, process, intent)
        while True:
            if ticket is None:
                ticket = await self._dispatcher.wait_for_slot(process, tool, registered.queue_name)
            # Before it runs, so that what it does through its port, and the text of a failure,
            # carry its label.
            process.take_labels(labels_of(tool) | registered.labels)
            context = self._context(process, intent, attempt)
            try:
                return await self._dispatcher.attempt(ticket, intent.arguments, context, on_late)
            except KernelError as exc:
                if not isinstance(exc, ToolError | RetryLater):
                    raise
                wait_s = FIRST_BACKOFF_S * 2 ** (attempt - 1)
                if isinstance(exc, RetryLater):
                    wait_s = max(wait_s, exc.retry_after_s)
                    left_s -= wait_s
                if attempt > tool.retries or left_s < 0:
                    raise
            with doing(f"pausing before attempt {attempt + 1} of tool {tool.name!r}"):
                await self._sleep(wait_s)
            ticket = None
            attempt += 1

    def _context(self, process: AgentProcess, intent: Intent, attempt: int) -> ToolContext:
        tool = intent.tool
        return ToolContext(
            tool=tool.id,
            caller=process.identity,
            call_id=intent.call_id,
            idempotency_key=intent.key,
            attempt=attempt,
            labels=frozenset(process.labels),
            settings=self._config.settings.get(tool.name, {}),
            _port=self._ports(process),
            _code_runner=_labeling(self._code_runner, process),
        )

    def _ended_late(self, process: AgentProcess, intent: Intent, outcome: Outcome) -> None:
        """EventLog the outcome of a tool that ended after its caller stopped waiting."""
        if intent.tool.read_only or not isinstance(outcome, Result):
            return  # a late failure does not prove that nothing took effect: it stays unknown
        kept = _kept(outcome.value, process.labels)
        self._later(self._journal.finish(intent, "done", kept))

    async def _answer(
        self, process: AgentProcess, result: Result, labels: frozenset[str]
    ) -> tuple[Any, bytes]:
        """Return what the caller gets, and its form in the journal."""
        labels = labels | process.labels  # the answer may quote all that its caller has read
        if len(result.encoded) <= self._config.max_inline_bytes:
            return result.value, _kept(result.value, labels)
        stored = await self._results.put(process.identity, result.encoded, labels)
        return stored, _kept(stored, labels)

    async def _sleep(self, wait_s: float) -> None:
        over = asyncio.Event()
        timer = self._clock.call_at(self._clock.now() + wait_s, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Journal something in the background; only `wait_idle` waits for it."""
        self._keep(asyncio.ensure_future(work))

    async def _finish(self, intent: Intent, outcome: str, kept: bytes | None = None) -> None:
        """Journal an outcome, even if the caller is cancelled: else the call would be in doubt."""
        finishing = asyncio.ensure_future(self._journal.finish(intent, outcome, kept))
        self._keep(finishing)
        await asyncio.shield(finishing)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("an outcome could not be journaled, its call is in doubt: %s", exc)


def _labeling(runner: CodeRunner | None, process: AgentProcess) -> CodeRunner | None:
    return None if runner is None else LabelingRunner(runner, process)


def _kept(answer: Any, labels: Iterable[str]) -> bytes:
    kept = {"labels": sorted(labels)}
    if isinstance(answer, StoredResult):
        return strict_json.dump(
            kept | {"stored": [answer.reference, answer.num_bytes, answer.head]}
        )
    return strict_json.dump(kept | {"value": answer})


def _restored(kept: bytes) -> tuple[Any, frozenset[str]]:
    """Return an answer from the journal, and its labels."""
    fields = strict_json.parse(kept, len(kept))
    labels = frozenset(fields.get("labels", ()))
    return StoredResult(*fields["stored"]) if "stored" in fields else fields["value"], labels
