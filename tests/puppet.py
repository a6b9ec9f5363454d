"""Helpers of the kernel's tests: a core that a test controls, and ways to run it.

`PuppetCore` does nothing on its own: a test finishes, fails and preempts its runs
by hand. `virtual` runs an async test on virtual time and looks for leftovers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from aios_core import (
    Agent,
    Completion,
    Delta,
    EventLog,
    FinishReason,
    Kernel,
    KernelConfig,
    KernelError,
    Message,
    SnapshotError,
    Usage,
)
from aios_core.core import (
    Capabilities,
    Core,
    CoreDown,
    CoreLoad,
    Failed,
    Finished,
    LoadChanged,
    Preempted,
    Prepared,
    Progress,
    Report,
    ReportSink,
    Run,
    Stopped,
)
from aios_core.snapshot import KVImage, Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing import run_virtual

P = ParamSpec("P")
PATIENCE = 30.0  # real seconds; only ever spent when a test is about to fail


class PuppetCore:
    """A core that a test controls by hand. One word of a prompt is one token.

    `runs` are the running ones, `history` all that ever began. With `obeys` it
    answers `preempt` and `cancel` at once; without, only the test does.
    """

    def __init__(
        self,
        name: str = "puppet",
        *,
        models: Sequence[str] = ("puppet",),
        slots: int = 1,
        preemptible: bool = True,
        obeys: bool = True,
        kv_capacity: int | None = None,
        window: int = 1_000,
    ) -> None:
        self.name = name
        self.models = models
        self.capabilities = Capabilities(
            context_window=window, preemptible=preemptible, exact_resume=preemptible
        )
        self.slots = slots
        self.obeys = obeys
        self.kv_capacity = kv_capacity
        self.kv_tokens = 0
        self.paused_until = 0.0
        self.runs: dict[int, Run] = {}
        self.history: list[Run] = []
        self.asked_to_cancel: list[int] = []
        self.asked_to_preempt: list[int] = []
        self.num_starts = 0
        self.num_closes = 0
        self.refuses_to_start: BaseException | None = None
        self.preparing: asyncio.Event | None = None  # set: `prepare` waits for it
        self.refuses_to_prepare: Exception | None = None
        self.make_image: Callable[[], KVImage | None] = lambda: None
        self.sink: ReportSink = _deaf
        self._tokens: dict[int, int] = {}

    # --- the contract

    async def start(self, sink: ReportSink) -> None:
        self.num_starts += 1
        if self.refuses_to_start:
            raise self.refuses_to_start
        self.sink = sink

    def prepare(self, request: LLMGenerate) -> Prepared | Coroutine[Any, Any, Prepared]:
        if self.refuses_to_prepare:
            raise self.refuses_to_prepare
        num_tokens = sum(len(m.content.split()) for m in request.messages)
        left = self.capabilities.context_window - num_tokens
        prepared = Prepared(num_tokens, min(request.sampling.max_tokens or left, left))
        return prepared if self.preparing is None else self._prepare_slowly(prepared)

    def run(self, run: Run) -> None:
        assert run.id not in self.runs, "two runs of one syscall"
        self.runs[run.id] = run
        self.history.append(run)
        self._tokens[run.id] = len(run.snapshot.output_ids) if run.snapshot else 0

    def preempt(self, run_id: int) -> None:
        self.asked_to_preempt.append(run_id)
        if self.obeys and run_id in self.runs:
            self.give_up(run_id)

    def cancel(self, run_id: int) -> None:
        self.asked_to_cancel.append(run_id)
        if self.obeys and run_id in self.runs:
            self.stop(run_id)

    def load(self) -> CoreLoad:
        try:
            now = asyncio.get_running_loop().time()
        except RuntimeError:
            now = 0.0
        return CoreLoad(
            self.slots,
            len(self.runs),
            kv_tokens=self.kv_tokens,
            kv_capacity=self.kv_capacity,
            available_in_s=max(0.0, self.paused_until - now),
        )

    def open_image(self, path: Path) -> KVImage:
        raise SnapshotError(f"{self.name} keeps no images, not even {path.name}")

    async def close(self) -> None:
        self.num_closes += 1
        for run_id in tuple(self.runs):
            self.stop(run_id)

    # --- the strings; without an id they move the run that began first

    def progress(self, run_id: int | None = None, num_tokens: int = 1, text: str = "") -> None:
        run_id = self._named(run_id)
        self._tokens[run_id] += num_tokens
        self.tell(Progress(run_id, num_tokens, Delta(text)))

    def finish(self, run_id: int | None = None, text: str = "done", **more: Any) -> None:
        run_id = self._named(run_id)
        self.tell(Finished(run_id, self.completion(run_id, text), **more))
        del self.runs[run_id]

    def fail(self, error: KernelError, run_id: int | None = None) -> None:
        run_id = self._named(run_id)
        del self.runs[run_id]
        self.tell(Failed(run_id, error, Usage()))

    def break_off(self, error: KernelError, run_id: int | None = None) -> None:
        """Fail a run, and hand over the tokens that it has generated."""
        run_id = self._named(run_id)
        request = self.runs.pop(run_id).request
        said = Snapshot("m", output_ids=tuple(range(self._tokens[run_id])))
        usage = Usage(len(request.last_text.split()), self._tokens[run_id])
        self.tell(Failed(run_id, error, usage, said))

    def give_up(self, run_id: int | None = None) -> None:
        run_id = self._named(run_id)
        del self.runs[run_id]
        said = tuple(range(self._tokens[run_id]))
        self.tell(Preempted(run_id, Snapshot("m", output_ids=said, kv=self.make_image())))

    def stop(self, run_id: int | None = None) -> None:
        run_id = self._named(run_id)
        usage = self.usage(run_id)
        del self.runs[run_id]
        self.tell(Stopped(run_id, usage))

    def die(self, error: KernelError) -> None:
        for run_id in tuple(self.runs):
            self.fail(error, run_id)
        self.tell(CoreDown(error))

    def pause(self, seconds: float) -> None:
        self.paused_until = asyncio.get_running_loop().time() + seconds

    def nudge(self) -> None:
        self.tell(LoadChanged())

    def tell(self, *reports: Report) -> None:
        self.sink(reports)

    def completion(self, run_id: int, text: str = "done") -> Completion:
        usage = self.usage(run_id)
        return Completion(Message("assistant", text), FinishReason.STOP, usage, self.models[0])

    def usage(self, run_id: int) -> Usage:
        return Usage(self.runs[run_id].prepared.num_tokens, self._tokens[run_id])

    @property
    def prompts(self) -> list[str]:
        """Return the prompts of the running runs, in the order in which they began."""
        return [run.request.messages[-1].content for run in self.runs.values()]

    def id_of(self, prompt: str) -> int:
        return next(i for i, r in self.runs.items() if r.request.messages[-1].content == prompt)

    def _named(self, run_id: int | None) -> int:
        return next(iter(self.runs)) if run_id is None else run_id

    async def _prepare_slowly(self, prepared: Prepared) -> Prepared:
        assert self.preparing is not None
        await self.preparing.wait()
        return prepared


@asynccontextmanager
async def booted(
    *cores: Core, config: KernelConfig | None = None, **settings: Any
) -> AsyncIterator[Kernel]:
    """Run a kernel on the running loop, and check its invariants when the block ends."""
    kernel = Kernel(config or KernelConfig(drain_s=0.0), cores=cores, **settings)
    kernel.journal = EventLog()  # type: ignore[attr-defined]
    kernel.subscribe(kernel.journal)  # type: ignore[attr-defined]
    async with kernel:
        yield kernel
        kernel.check()


def asks(agent: Agent, prompt: str = "hi", **arguments: Any) -> asyncio.Task[Completion]:
    """Start a call of an agent in a task of its own."""
    return asyncio.ensure_future(agent.llm.agenerate(prompt, **arguments))


async def settled() -> None:
    """Let everything happen that happens now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def error_of(call: asyncio.Future[Any]) -> BaseException | None:
    """Wait for a call. Returns its error, or None."""
    await asyncio.wait([call], timeout=PATIENCE)
    assert call.done(), "no answer"
    return asyncio.CancelledError() if call.cancelled() else call.exception()


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on virtual time; a task that outlives it fails it."""

    async def main(*args: P.args, **kwargs: P.kwargs) -> None:
        await test(*args, **kwargs)
        await settled()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks outlive the test: {left}"

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(main(*args, **kwargs))

    return run


def _deaf(_: Sequence[Report]) -> None:
    raise AssertionError("a report before `start`")
