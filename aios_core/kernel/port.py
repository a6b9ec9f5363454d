"""One agent's way into the kernel, from any thread and any event loop.

    LLM calls          generate, stream ──> submission ──> dispatcher ──> a core
    all other requests call             ──> syscall handler ──> a manager

On the kernel's own loop a call costs no hop to another thread; the blocking forms are refused
there (`WouldBlock`). Cancelling an await cancels its call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar, Unpack

from aios_core.core import Prepared, PromptSize, count_prompt
from aios_core.errors import ContextOverflow, InvalidRequest, SyscallCancelled, WouldBlock
from aios_core.kernel.loop_portal import LoopPortal
from aios_core.kernel.multiple_answers import NOBODY, SeveralAnswers, single_requests
from aios_core.kernel.provenance import LabelledTexts
from aios_core.kernel.streams import AsyncStream, Stream, post_to
from aios_core.kernel.wiring import Components
from aios_core.messages import Completion, Delta
from aios_core.options import SubmitOptions
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess, ProcessState, ProcessTable
from aios_core.redaction import scrub, shown_repr
from aios_core.scheduler.call import Answer
from aios_core.syscalls import LLMGenerate, Request, Syscall
from aios_core.untrusted.third_party import RAISED, pass_on

# --- answers --------------------------------------------------------------------------------


class LocalAnswer:
    """For a caller on the kernel's own loop."""

    wants_deltas = False

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Completion] = loop.create_future()

    def delta(self, delta: Delta) -> None:
        """Ignore a delta: this caller wants the whole answer."""

    def resolve(self, completion: Completion) -> None:
        if not self.future.done():
            self.future.set_result(completion)

    def reject(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(scrub(error))


class LoopAnswer(LocalAnswer):
    """For a caller on another event loop."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._loop = loop

    def resolve(self, completion: Completion) -> None:
        post_to(self._loop, super().resolve, completion)

    def reject(self, error: BaseException) -> None:
        post_to(self._loop, super().reject, error)


class ThreadAnswer:
    """For a caller that waits on a thread. The future is the caller's, who may cancel it."""

    wants_deltas = False

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: Future[Completion] = Future()

    def delta(self, delta: Delta) -> None:
        """Ignore a delta: this caller wants the whole answer."""

    def resolve(self, completion: Completion) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(completion)

    def reject(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(scrub(error))


_MAX_KEPT = 1_000
T = TypeVar("T")


class Submitter:
    """Checks an agent and its call, and hands the call to the dispatcher."""

    def __init__(self, parts: Components, processes: ProcessTable, crossing: LoopPortal) -> None:
        self._parts, self._processes, self._crossing = parts, processes, crossing
        self._model_access: dict[str | None, Access] = {}

    def submit(
        self,
        process: AgentProcess,
        request: LLMGenerate,
        answer: Answer,
        **options: Unpack[SubmitOptions],
    ) -> Syscall | SeveralAnswers:
        """Accept a call, on the loop. Raises what `LLM.generate` raises before that."""
        if self._crossing.is_closed or self._crossing.bound is None:
            self._crossing.loop()  # raises why
        if process.state is ProcessState.EXITED:
            raise SyscallCancelled(f"agent {process.name!r} has exited")
        dispatcher = self._parts.dispatcher
        dispatcher.require_room(process)  # before it counts as one more call
        if self._parts.texts.labels:
            self._parts.texts.mark_prompt(process, request.messages)
        if process.labels:
            answer = _Remembered(answer, process, self._parts.texts, answer.wants_deltas)
        approval = self._check_model(process, request.model)
        self._processes.guard_call(process, request)
        if request.sampling.n not in (None, 1) and not self._gives_several(request.model):
            return self._submit_each(process, request, answer, approval, options)
        return dispatcher.submit(process, request, answer, approval=approval, **options)

    def _gives_several(self, model: str | None) -> bool:
        """Return whether every core of the model gives several answers in one run."""
        return all(core.capabilities.choices for core in self._parts.pool.route(model))

    def _submit_each(
        self,
        process: AgentProcess,
        request: LLMGenerate,
        answer: Answer,
        approval: Awaitable[None] | None,
        options: SubmitOptions,
    ) -> SeveralAnswers:
        """Make one call for each answer wanted. All are accepted, or none is."""
        asked = None if approval is None else asyncio.ensure_future(approval)
        together = SeveralAnswers(answer, request.sampling.num_choices, self.cancel, asked)
        try:
            for number, single in enumerate(single_requests(request)):
                together.syscalls.append(
                    self._parts.dispatcher.submit(
                        process,
                        single,
                        together.part(number),
                        approval=None if asked is None else asyncio.shield(asked),
                        **options,
                    )
                )
        except BaseException:
            together.answer = NOBODY
            together.cancel_all()
            raise
        return together

    def _check_model(self, process: AgentProcess, model: str | None) -> Awaitable[None] | None:
        """Return whether the agent may ask the model; made once for each, since calls are many."""
        access = self._model_access.get(model)
        if access is None:
            resource = Resource("model", None, model or self._parts.pool.default_model)
            access = Access(LLMGenerate.kind, Right.EXECUTE, resource)
            if len(self._model_access) < _MAX_KEPT:  # names may be a caller's invention
                self._model_access[model] = access
        return self._parts.gatekeeper.authorize(process, access)

    def cancel(self, submitted: Syscall | SeveralAnswers) -> None:
        """Cancel a call, on the loop."""
        if isinstance(submitted, Syscall):
            self._parts.dispatcher.cancel(submitted.id)
        else:
            submitted.cancel_all()

    async def measure(self, request: LLMGenerate) -> PromptSize:
        """Count a prompt's tokens, or estimate them if no core can count."""
        core = self._parts.pool.route(request.model)[0]
        counted = await count_prompt(core, request)
        if counted is not None:
            return PromptSize(counted, core.capabilities.context_window)
        return await self.measure_here(request)

    async def measure_here(self, request: LLMGenerate) -> PromptSize:
        """Measure without asking anyone outside of this process."""
        core = self._parts.pool.route(request.model)[0]
        window = core.capabilities.context_window
        try:
            prepared = core.prepare(request)
            if not isinstance(prepared, Prepared):
                prepared = await prepared
        except ContextOverflow as exc:
            return PromptSize(exc.num_tokens, exc.context_window)
        if prepared.is_exact:
            return PromptSize(prepared.num_tokens, window)
        model = request.model if request.model in core.models else core.models[0]
        estimate = self._parts.dispatcher.estimate_prompt(request, model or core.models[0])
        return PromptSize(min(estimate, prepared.num_tokens), window, is_exact=False)

    def measure_blocking(self, request: LLMGenerate) -> PromptSize:
        """Measure a prompt from any thread; on the kernel's loop if its core can count at once.

        Raises `WouldBlock` if it cannot.
        """
        self._crossing.loop()
        if not self._crossing.is_current:
            return self._crossing.run(self.measure(request))
        measuring = self.measure_here(request)
        try:
            measuring.send(None)
        except StopIteration as done:
            size: PromptSize = done.value
            return size
        measuring.close()
        raise WouldBlock(
            "this is the kernel's own loop, and the core counts off it; await the async form"
        )

    async def perform(
        self, process: AgentProcess, request: Request[T], timeout_s: float | None
    ) -> T:
        """Have a request served that needs no core. On the loop."""
        if not isinstance(request, Request):
            raise InvalidRequest(f"request: got {shown_repr(request)}; allowed: a Request")
        if request.is_guarded:
            self._processes.guard_call(process, request)
        answer: T = await self._parts.traps.perform(process, request, timeout_s=timeout_s)
        return answer

    # --- from outside ----------------------------------------------------------------------------

    def post(
        self, process: AgentProcess, request: LLMGenerate, answer: Answer, options: SubmitOptions
    ) -> Submission:
        """Bring a call to the loop, from any thread. A refusal is the answer."""
        submission = Submission(self, process, request, answer, options)
        self._crossing.post(submission.submit)
        return submission

    def post_cancel(self, submission: Submission) -> None:
        """Cancel a submission from any thread; even a garbage collector may call it."""
        self._crossing.post_if_open(submission.cancel)


@dataclass(slots=True, eq=False)
class _Remembered:
    """An answer to an agent with labels, which follow the text to other agents."""

    answer: Answer
    process: AgentProcess
    texts: LabelledTexts
    wants_deltas: bool

    def delta(self, delta: Delta) -> None:
        self.answer.delta(delta)

    def resolve(self, completion: Completion) -> None:
        labels, name = self.process.labels, self.process.name
        self.texts.remember(completion.text, labels, name)
        others = [choice.message.content for choice in completion.choices]
        self.texts.remember(others, labels, name)
        self.answer.resolve(completion)

    def reject(self, error: BaseException) -> None:
        self.answer.reject(error)


@dataclass(slots=True, eq=False)
class Submission:
    """A call on its way to the loop, from outside of it."""

    submitter: Submitter
    process: AgentProcess
    request: LLMGenerate
    answer: Answer
    options: SubmitOptions
    syscall: Syscall | SeveralAnswers | None = None

    def submit(self) -> None:
        """On the loop. A refusal is the caller's answer."""
        try:
            self.syscall = self.submitter.submit(
                self.process, self.request, self.answer, **self.options
            )
        except RAISED as exc:  # the waiting caller gets any exception
            pass_on(exc)
            self.answer.reject(exc)

    def withdraw(self) -> None:
        """Cancel the call, from any thread and at any point: a garbage collector may call it."""
        self.submitter.post_cancel(self)

    def cancel(self) -> None:
        """On the loop."""
        if self.syscall is not None:
            self.submitter.cancel(self.syscall)


@dataclass(frozen=True, slots=True)
class AgentPort:
    """One agent's way into the kernel (`aios_core.manager.Port`, and the LLM calls)."""

    _loop: LoopPortal
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
        self._loop.require_off_loop("agenerate()")
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
        self._loop.require_off_loop("astream()")
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
