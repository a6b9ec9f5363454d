"""One agent's way into the kernel, from any thread and any event loop.

    LLM calls          generate, stream ──> submission ──> dispatcher ──> a core
    all other requests call             ──> syscall handler ──> a manager

On the kernel's own loop a call costs no hop to another thread; the blocking forms are refused
there (`WouldBlock`). Cancelling an await cancels its call.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from aios_core.core import PromptSize
from aios_core.kernel.bridge import AsyncStream, LocalAnswer, LoopAnswer, Stream, ThreadAnswer
from aios_core.kernel.loop_portal import Crossing
from aios_core.kernel.submission import Submitter
from aios_core.messages import Completion
from aios_core.options import SubmitOptions
from aios_core.process import AgentProcess
from aios_core.syscalls import LLMGenerate, Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AgentPort:
    """One agent's way into the kernel (`aios_core.manager.Port`, and the LLM calls)."""

    _loop: Crossing
    _submitter: Submitter
    process: AgentProcess

    @property
    def identity(self) -> str:
        return self.process.identity

    def acting_for(self, other: AgentProcess) -> AgentPort:
        """Return the port of this agent as another uses it."""
        return AgentPort(self._loop, self._submitter, self.process.acting_for(other))

    # --- LLM calls ---------------------------------------------------------------------------

    def generate(self, request: LLMGenerate, options: SubmitOptions) -> Completion:
        """Submit a call and wait for its answer, on a thread that is not the kernel's loop."""
        self._loop.refuse_to_block("agenerate()")
        answer = ThreadAnswer()
        call = self._submitter.post(self.process, request, answer, options)
        try:
            return answer.future.result()
        except KeyboardInterrupt:
            call.withdraw()
            raise

    async def agenerate(self, request: LLMGenerate, options: SubmitOptions) -> Completion:
        """Submit a call and await its answer, on any event loop."""
        loop = asyncio.get_running_loop()
        if loop is self._loop.bound:
            local = LocalAnswer(loop)
            syscall = self._submitter.submit(self.process, request, local, **options)
            try:
                return await local.future
            except asyncio.CancelledError:
                self._submitter.cancel(syscall)
                raise
        answer = LoopAnswer(loop)
        call = self._submitter.post(self.process, request, answer, options)
        try:
            return await answer.future
        except asyncio.CancelledError:
            call.withdraw()
            raise

    def stream(self, request: LLMGenerate, options: SubmitOptions) -> Stream:
        """Submit a call and hand back its deltas, on a thread that is not the kernel's loop."""
        self._loop.refuse_to_block("astream()")
        stream = Stream()
        stream.call = self._submitter.post(self.process, request, stream.answer, options)
        return stream

    def astream(self, request: LLMGenerate, options: SubmitOptions) -> AsyncStream:
        """Submit a call and hand back its deltas, on the running event loop."""
        loop = asyncio.get_running_loop()
        stream = AsyncStream(loop, is_local=loop is self._loop.bound)
        stream.call = self._submitter.post(self.process, request, stream.answer, options)
        return stream

    def measure(self, request: LLMGenerate) -> PromptSize:
        """Count a prompt's tokens, from any thread; see `Submitter.measure_blocking`."""
        return self._submitter.measure_blocking(request)

    async def ameasure(self, request: LLMGenerate) -> PromptSize:
        """Count a prompt's tokens, on any event loop."""
        return await self._loop.arun(self._submitter.measure(request))

    # --- all other requests ------------------------------------------------------------------

    def call(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make a request and wait for its answer, on a thread that is not the kernel's loop."""
        return self._loop.run(self._submitter.perform(self.process, request, timeout_s))

    async def acall(self, request: Request[T], *, timeout_s: float | None = None) -> T:
        """Make a request and await its answer, on any event loop."""
        return await self._loop.arun(self._submitter.perform(self.process, request, timeout_s))
