"""Runs on a core without a kernel, for benchmarks of the core alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aios_core.core import CoreDown, Finished, Preempted, Prepared, Progress, Report, Run
from aios_core.cores.transformers import TransformersCore
from aios_core.messages import Message, Sampling
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

Interrupts = Callable[[int, int], bool]  # by number of the run, and of its tokens so far
Handles = Callable[[Snapshot], Snapshot]


@dataclass(slots=True, eq=False)
class _ActiveRun:
    run: Run
    number: int
    num_tokens: int = 0


class CoreRig:
    """Sends runs to a core that reports to its `sink`, and takes their answers."""

    def __init__(self, core: TransformersCore) -> None:
        self.core = core
        self.num_preemptions = 0
        self._active: dict[int, _ActiveRun] = {}
        self._outputs: dict[int, tuple[int, ...]] = {}
        self._next_id = 0
        self._interrupts: Interrupts | None = None
        self._handles: Handles | None = None
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failure: Report | None = None

    async def generate(
        self,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        *,
        samplings: Sequence[Sampling] = (),
        interrupts: Interrupts | None = None,
        handles: Handles | None = None,
    ) -> list[tuple[int, ...]]:
        """Run all prompts at once, each to `num_tokens` tokens.

        Each run is preempted where `interrupts` decides, and resumed at once from what `handles`
        makes of its snapshot. Returns the output ids, if the core keeps contexts.
        """
        self._interrupts, self._handles = interrupts, handles
        self._outputs.clear()
        self._done.clear()
        runs = [
            self._make_run(prompt, replace(sampling, max_tokens=num_tokens))
            for prompt, sampling in zip(
                prompts, samplings or [Sampling()] * len(prompts), strict=True
            )
        ]
        self._active = {run.id: _ActiveRun(run, number) for number, run in enumerate(runs)}
        for run in runs:
            self.core.run(run)
        await self._done.wait()
        if self._failure is not None:
            raise RuntimeError(f"the core reports {self._failure}")
        return [self._outputs.get(number, ()) for number in range(len(runs))]

    def sink(self, reports: Sequence[Report]) -> None:
        """Called by the step loop's thread."""
        for report in reports:
            match report:
                case Progress(run_id):
                    self._progress(self._active[run_id])
                case Preempted(run_id, snapshot):
                    self.num_preemptions += 1
                    kept = self._handles(snapshot) if self._handles else snapshot
                    self.core.run(replace(self._active[run_id].run, snapshot=kept))
                case Finished(run_id, _, context):
                    active = self._active.pop(run_id)
                    if context is not None:
                        self._outputs[active.number] = context.output_ids
                        if context.kv is not None:
                            context.kv.release()
                case CoreDown():
                    self._fail(report)
                case _:
                    self._fail(report)
        if not self._active:
            self._loop.call_soon_threadsafe(self._done.set)

    def _progress(self, active: _ActiveRun) -> None:
        active.num_tokens += 1
        if self._interrupts is not None and self._interrupts(active.number, active.num_tokens):
            self.core.preempt(active.run.id)

    def _fail(self, report: Report) -> None:
        self._failure = report
        self._active.clear()

    def _make_run(self, prompt: Sequence[int], sampling: Sampling) -> Run:
        self._next_id += 1
        message = Message("user", "a prompt of tokens")
        request = LLMGenerate((message,), sampling=sampling, extra={"ignore_eos": True})
        prepared = Prepared(len(prompt), sampling.max_tokens or 1, tuple(prompt))
        return Run(self._next_id, 1, request, prepared, wants_deltas=False)
