"""A core that runs nothing itself: its calls are made by those who asked for them.

In mode "passthrough" a framework asks its own provider, and the kernel says when. Such a
call waits in the queue like any other; once it runs, its stream's first delta tells
its guest to begin. The guest asks the provider wherever it lives and reports how that
ended. Meanwhile it holds a slot, so that policies, priorities, budgets and deadlines
count as everywhere.

A cancelled run frees its slot at once; its guest sees its stream end. An agent
cannot be saved while such a call of it waits (`SnapshotError`): nobody elsewhere
could make it.
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

#: The key of a request's `extra` under which its guest travels.
GUEST: Final = "aios.guest"
#: After the name of a provider's model; keeps it apart from a core's model of that name.
AT_PROVIDER: Final = "@provider"

_WINDOW: Final = 2_000_000  # tokens; the provider alone knows, and refuses what is too long
_BEGIN: Final = Delta("begin")


class Guest:
    """A call that its caller makes itself. Thread-safe; only the first report counts.

    Guests are equal, so that the runaway guard sees calls that are repeated.
    """

    def __init__(self) -> None:
        self.token_limit: int | None = None  # that the answer may have; known once it may begin
        self.was_sent = False  # the provider was asked, and will charge the prompt
        self.has_sent_limit = False  # a budget's, which the program did not set
        self._end: Callable[[Finished | Failed], None] | None = None
        self._run_id = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Guest)

    __hash__ = None  # type: ignore[assignment] # equal, and yet not one

    def enter(
        self, run_id: int, token_limit: int | None, end: Callable[[Finished | Failed], None]
    ) -> None:
        """It holds a slot now."""
        self._run_id, self.token_limit, self._end = run_id, token_limit, end

    def finish(self, completion: Completion) -> None:
        """The provider answered."""
        if self._end is not None:
            self._end(Finished(self._run_id, completion))

    def fail(self, error: KernelError) -> None:
        """The provider did not."""
        if self._end is not None:
            self._end(Failed(self._run_id, error))


class GuestCore:
    """Slots for the calls of one provider's model; see the module.

    Invariant: `_guests` holds exactly the runs without a final report.
    """

    def __init__(self, model: str, *, slots: int = 16) -> None:
        self._model = model + AT_PROVIDER
        self._slots = slots
        self._guests: dict[int, Guest] = {}
        self._sink: ReportSink | None = None
        self._limit_memory = LimitMemory()

    def __repr__(self) -> str:
        return f"<GuestCore {self.name!r}: {len(self._guests)}/{self._slots}>"

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
        """Nothing has to be reached."""
        self._sink = sink

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Bound the prompt from above; the provider alone can count it."""
        if GUEST not in request.extra:
            raise InvalidRequest(f"{self._model!r} serves only what its caller asks a provider")
        num_tokens = min(max_prompt_tokens(request), _WINDOW - 1)
        limit = min(request.sampling.max_tokens or _WINDOW, _WINDOW - num_tokens)
        return Prepared(num_tokens, limit, is_exact=False)

    def run(self, run: Run) -> None:
        """Let the guest begin."""
        guest = self._guests[run.id] = run.request.extra[GUEST]
        guest.enter(run.id, self._limit_of(run), self._ended)
        self._report(Progress(run.id, 0, _BEGIN))

    def preempt(self, run_id: int) -> None:
        """A provider's answer cannot be interrupted and gone on with."""

    def cancel(self, run_id: int) -> None:
        """Take the slot back."""
        if (guest := self._guests.pop(run_id, None)) is not None:
            usage = Usage(is_estimated=True) if guest.was_sent else Usage()
            self._report(Stopped(run_id, usage))

    def load(self) -> CoreLoad:
        return CoreLoad(self._slots, len(self._guests), is_up=self._sink is not None)

    def open_image(self, path: Path) -> KVImage:
        raise SnapshotError(f"core {self.name!r} takes no KV images, such as {path.name}")

    async def close(self) -> None:
        """Take every slot back."""
        for run_id in tuple(self._guests):
            self.cancel(run_id)

    def _limit_of(self, run: Run) -> int | None:
        """Return the answer's limit; None if a budget sets one that the provider refuses."""
        limit = run.token_limit
        if limit is None or run.request.sampling.max_tokens is not None:
            return limit
        return limit if self._limit_memory.allows(self._model, limit) else None

    def _ended(self, report: Finished | Failed) -> None:
        guest = self._guests.pop(report.run_id, None)
        if guest is None:
            return
        if isinstance(report, Failed) and guest.has_sent_limit and guest.token_limit is not None:
            self._remember_refusal(report.error, guest.token_limit)
        self._report(report)

    def _remember_refusal(self, error: KernelError, limit: int) -> None:
        status = getattr(error.__cause__, "status_code", None)
        if isinstance(status, int) and self._limit_memory.is_refusal(status, str(error)):
            self._limit_memory.refused(self._model, limit)

    def _report(self, report: Progress | Finished | Failed | Stopped) -> None:
        if self._sink is not None:
            self._sink((report,))
