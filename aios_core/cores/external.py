"""Schedule calls that their callers make at their own provider (external calls).

In mode "passthrough" a framework calls its own provider, and the kernel decides when.
Such a call waits in the queue like any other. Once it runs, the first delta of its stream
lets the caller start. The caller calls the provider, on any thread or loop, and
reports the outcome. Until then it holds a slot, so that scheduling policies, priorities,
budgets and deadlines apply as for every other call.

A cancelled run frees its slot at once, and its caller sees the stream end. An agent
cannot be saved while it has such a call (`SnapshotError`), since only the caller can
make it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from aios_core.core import (
    Capabilities,
    CoreLoad,
    Failed,
    Finished,
    Prepared,
    Progress,
    ReportSink,
    Run,
    Stopped,
)
from aios_core.cores.openai.refused_limits import LimitMemory
from aios_core.cores.openai.wire import max_prompt_tokens
from aios_core.errors import InvalidRequest, KernelError, SnapshotError
from aios_core.messages import Completion, Delta, Usage
from aios_core.snapshot import KVImage
from aios_core.syscalls import LLMGenerate

#: The key of a request's `extra` that holds its `ExternalCall`.
EXTERNAL_CALL: Final = "aios.external_call"
#: Suffix of a provider's model name, which distinguishes it from a core's model.
PROVIDER_SUFFIX: Final = "@provider"

_WINDOW: Final = 2_000_000  # tokens; the provider refuses prompts over its true limit itself
_BEGIN: Final = Delta("begin")
_MAX_CAUSES: Final = 4  # frameworks wrap the exceptions of their clients


class ExternalCall:
    """A call that its caller makes itself. Thread-safe; only the first outcome counts.

    All instances are equal, so that the runaway guard recognizes repeated requests.
    """

    def __init__(self) -> None:
        self.token_limit: int | None = None  # of the answer; known once the call may start
        self.was_sent = False  # the provider has the request, and charges for the prompt
        self.has_sent_limit = False  # a limit that a budget set, not the program
        self._end: Callable[[Finished | Failed], None] | None = None
        self._is_refusal: Callable[[KernelError, int], bool] | None = None
        self._run_id = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExternalCall)

    __hash__ = None  # type: ignore[assignment] # equal instances are still distinct calls

    def enter(
        self,
        run_id: int,
        token_limit: int | None,
        end: Callable[[Finished | Failed], None],
        is_refusal: Callable[[KernelError, int], bool],
    ) -> None:
        """Note that the call holds a slot now.

        `end` reports its outcome, and `is_refusal` judges whether an error refuses a limit.
        """
        self._run_id, self.token_limit, self._end = run_id, token_limit, end
        self._is_refusal = is_refusal

    def drop_limit(self, error: KernelError) -> bool:
        """Drop a budget's limit if the provider refused it. Returns whether it did."""
        limit = self.token_limit
        if not self.has_sent_limit or limit is None or self._is_refusal is None:
            return False
        if not self._is_refusal(error, limit):
            return False
        self.token_limit, self.has_sent_limit = None, False
        return True

    def finish(self, completion: Completion) -> None:
        """Report the provider's answer."""
        if self._end is not None:
            self._end(Finished(self._run_id, completion))

    def fail(self, error: KernelError) -> None:
        """Report that the provider failed."""
        if self._end is not None:
            self._end(Failed(self._run_id, error))


class ExternalCore:
    """A core of slots for external calls of one provider's model.

    Invariant: `_calls` holds exactly the runs without a final report.
    """

    def __init__(self, model: str, *, slots: int = 16) -> None:
        self._model = model + PROVIDER_SUFFIX
        self._slots = slots
        self._calls: dict[int, ExternalCall] = {}
        self._sink: ReportSink | None = None
        self._limit_memory = LimitMemory()

    def __repr__(self) -> str:
        return f"<ExternalCore {self.name!r}: {len(self._calls)}/{self._slots}>"

    @property
    def name(self) -> str:
        return self._model

    @property
    def models(self) -> tuple[str, ...]:
        return (self._model,)

    @property
    def capabilities(self) -> Capabilities:
        notes = ("its calls are made by the frameworks' own clients",)
        return Capabilities(
            context_window=_WINDOW, seed=False, parts=None, choices=True, external=True, notes=notes
        )

    async def start(self, sink: ReportSink) -> None:
        """Mark the core as up; there is no backend to connect to."""
        self._sink = sink

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Return an upper bound of the prompt's tokens; only the provider can count them."""
        if EXTERNAL_CALL not in request.extra:
            raise InvalidRequest(
                f"model: got {self._model!r}, which serves only calls in mode 'passthrough'"
            )
        num_tokens = min(max_prompt_tokens(request), _WINDOW - 1)
        limit = min(request.sampling.max_tokens or _WINDOW, _WINDOW - num_tokens)
        return Prepared(num_tokens, limit, is_exact=False)

    def run(self, run: Run) -> None:
        """Let the caller start."""
        call = self._calls[run.id] = run.request.extra[EXTERNAL_CALL]
        call.enter(run.id, self._limit_of(run), self._ended, self._is_refusal)
        self._report(Progress(run.id, 0, _BEGIN))

    def preempt(self, run_id: int) -> None:
        """Do nothing: a provider's answer cannot be suspended and resumed."""

    def cancel(self, run_id: int) -> None:
        """Free the slot of a run."""
        if (call := self._calls.pop(run_id, None)) is not None:
            usage = Usage(is_estimated=True) if call.was_sent else Usage()
            self._report(Stopped(run_id, usage))

    def load(self) -> CoreLoad:
        return CoreLoad(self._slots, len(self._calls), is_up=self._sink is not None)

    def open_image(self, path: Path) -> KVImage:
        raise SnapshotError(f"core {self.name!r} takes no KV images, such as {path.name}")

    async def close(self) -> None:
        """Free all slots."""
        for run_id in tuple(self._calls):
            self.cancel(run_id)

    def _limit_of(self, run: Run) -> int | None:
        """Return the answer's limit; None if a budget sets one that the provider refuses."""
        limit = run.token_limit
        if limit is None or run.request.sampling.max_tokens is not None:
            return limit
        return limit if self._limit_memory.allows(self._model, limit) else None

    def _ended(self, report: Finished | Failed) -> None:
        call = self._calls.pop(report.run_id, None)
        if call is None:
            return
        if isinstance(report, Failed):
            call.drop_limit(report.error)
        self._report(report)

    def _is_refusal(self, error: KernelError, limit: int) -> bool:
        """Return whether a provider refused a limit, which is remembered then."""
        status = _status_of(error)
        if status is None or not self._limit_memory.is_refusal(status, str(error)):
            return False
        self._limit_memory.refused(self._model, limit)
        return True

    def _report(self, report: Progress | Finished | Failed | Stopped) -> None:
        if self._sink is not None:
            self._sink((report,))


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the provider's answer behind an error, if there was one."""
    cause = error.__cause__
    for _ in range(_MAX_CAUSES):
        if isinstance(status := getattr(cause, "status_code", None), int):
            return status
        cause = cause.__cause__ if cause is not None else None
    return None
