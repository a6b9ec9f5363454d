"""Runs on a core without a kernel, for benchmarks of the core alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from aios_core.core import CoreDown, Finished, Preempted, Prepared, Progress, Report, Run
from aios_core.cores.transformers import TransformersCore
from aios_core.messages import Message, Sampling
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

OnPreempted = Callable[[Run, Snapshot], Snapshot]


class CoreRig:
    """Sends runs to a started core, and takes their answers."""

    def __init__(self, core: TransformersCore) -> None:
        self.core = core
        self.num_preemptions = 0
        self._runs: dict[int, Run] = {}
        self._tokens: dict[int, list[int]] = {}
        self._next_id = 0
        self._every: int | None = None
        self._on_preempted: OnPreempted = lambda run, snapshot: snapshot
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failure: Report | None = None

    async def generate(
        self,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        *,
        sampling: Sampling | None = None,
        preempt_every: int | None = None,
        on_preempted: OnPreempted | None = None,
    ) -> None:
        """Run all prompts at once, each to `num_tokens` tokens.

        With `preempt_every` each run is preempted after so many tokens and resumed at once, from
        what `on_preempted` makes of its snapshot.
        """
        self._every = preempt_every
        self._on_preempted = on_preempted or (lambda run, snapshot: snapshot)
        self._done.clear()
        sampling = replace(sampling or Sampling(), max_tokens=num_tokens)
        request = LLMGenerate(
            (Message("user", "a prompt of tokens"),), sampling=sampling, extra={"ignore_eos": True}
        )
        for prompt in prompts:
            self._next_id += 1
            prepared = Prepared(len(prompt), num_tokens, tuple(prompt))
            run = Run(self._next_id, 1, request, prepared, wants_deltas=False)
            self._runs[run.id] = run
            self._tokens[run.id] = []
            self.core.run(run)
        await self._done.wait()
        if self._failure is not None:
            raise RuntimeError(f"the core reports {self._failure}")

    def sink(self, reports: Sequence[Report]) -> None:
        """Called by the step loop's thread, which is not kept waiting."""
        for report in reports:
            match report:
                case Progress(run_id, num_tokens):
                    tokens = self._tokens[run_id]
                    tokens.append(num_tokens)
                    if self._every and len(tokens) % self._every == 0:
                        self.core.preempt(run_id)
                case Preempted(run_id, snapshot):
                    self.num_preemptions += 1
                    run = self._runs[run_id]
                    kept = self._on_preempted(run, snapshot)
                    self.core.run(replace(run, snapshot=kept))
                case Finished(run_id):
                    del self._runs[run_id], self._tokens[run_id]
                case CoreDown():
                    self._failure = report
                    self._runs.clear()
                case _:
                    self._failure = report
                    del self._runs[report.run_id]
        if not self._runs:
            self._loop.call_soon_threadsafe(self._done.set)
