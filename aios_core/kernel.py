"""The kernel: wires the boxes of the paper's figure and is the border to callers.

It runs on one asyncio loop and only that loop touches its state, so there are no
locks on it. `with Kernel(...)` gives the loop a thread of its own; `async with
Kernel(...)` uses the caller's loop, where a syscall costs no thread hop. Either
way, any thread and any other event loop may call it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

from aios_core.access import (
    AccessManager,
    Approver,
    Callback,
    CallbackApprover,
    Explanation,
    explained,
)
from aios_core.agent import Agent, AgentPort
from aios_core.at_exit import close_at_exit, closed
from aios_core.bridge import AsyncStream, LocalAnswer, LoopAnswer, LoopThread, Stream, ThreadAnswer
from aios_core.budget import Budget, Price
from aios_core.clock import LoopClock
from aios_core.config import KernelConfig
from aios_core.context import ContextSwitcher, FrozenAgent, FrozenCall, require_savable
from aios_core.core import Core, Prepared, PromptSize
from aios_core.cores.embedding import EmbeddingManager, build_embedder
from aios_core.cores.factory import announce_default_core, build_cores
from aios_core.cores.guest import AT_PROVIDER
from aios_core.cores.pool import CorePool
from aios_core.crossing import Crossing
from aios_core.embedding import Embedder
from aios_core.errors import (
    ConfigError,
    ContextOverflow,
    KernelClosed,
    NoSuchObject,
    SnapshotError,
    SyscallCancelled,
    WouldBlock,
)
from aios_core.events import EventKind, EventStream, KernelEvent, Observer
from aios_core.manager import Gatekeeper, Manager
from aios_core.memory import MemoryManager
from aios_core.messages import Completion
from aios_core.permissions import Access, Resource, Right
from aios_core.process import AgentProcess, ProcessState, ProcessTable
from aios_core.scheduler import POLICIES, Dispatcher, Policy, QueueLoad, Scheduler
from aios_core.scheduler.admission import Admission
from aios_core.scheduler.call import Answer
from aios_core.scheduler.dispatcher import Limits
from aios_core.scheduler.shares import FlowShare
from aios_core.state import StateOpener, read_key
from aios_core.storage import StorageManager
from aios_core.storage.semantic import CollectionManager, FileIndex, VectorSpaces
from aios_core.syscalls import LLMGenerate, Request, Syscall
from aios_core.tools import ToolManager
from aios_core.tools.handle import Loadable
from aios_core.tools.sandbox import AgentSessions, CodeService, MarkingWorkspace, Sandbox
from aios_core.trap import TrapHandler

T = TypeVar("T")


class Kernel:
    """An operating system for agents, in this process.

    Args:
        config: None reads `aios.toml` and the environment (`KernelConfig.load`).
        cores: use these instead of the configured ones.
        policy: use this one, by name or as an instance, instead of the configured one.
        gatekeeper: decides who may do what, instead of the configured access manager.
        approver: asks people about what cannot be undone, instead of the configured one; a
            function may be given, which takes an `ApprovalRequest` and answers True or False.
        embedder: turns texts into vectors, instead of the configured one; closed with the kernel.
        observers: are told every `KernelEvent`.

    A kernel is started once and closed once.
    """

    def __init__(
        self,
        config: KernelConfig | None = None,
        *,
        cores: Sequence[Core] | None = None,
        policy: str | Policy | None = None,
        gatekeeper: Gatekeeper | None = None,
        approver: Approver | Callback | None = None,
        embedder: Embedder | None = None,
        observers: Iterable[Observer] = (),
    ) -> None:
        self.config = config if config is not None else KernelConfig.load()
        self.events = EventStream(observers)
        self._policy = _policy(policy or self.config.scheduler.policy, self.config)
        self._given_cores = cores
        self._given_gatekeeper = gatekeeper
        self._given_approver = CallbackApprover.of(approver)
        self._given_embedder = embedder
        self._thread: LoopThread | None = None
        self._services: list[AgentSessions | Sandbox | VectorSpaces] = []
        self._code_sessions: AgentSessions | None = None
        self._loop = Crossing()
        self.processes = ProcessTable(self.config.guard)
        for name, group in self.config.groups.items():
            self.processes.add_group(name, weight=group.weight, budget=group.budget)

    def __repr__(self) -> str:
        loop = self._loop
        state = "closed" if loop.is_closed else "running" if loop.is_bound else "not started"
        return f"<Kernel {state}: {len(self.processes)} agents, policy {self._policy.name!r}>"

    # --- life --------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start on a thread of its own and wait until the cores serve.

        Raises `BackendError` if no core can; the kernel is closed then.
        """
        self._refuse_second_start()
        self._thread = LoopThread()
        try:
            self._thread.run(self._boot())
        except BaseException:
            self._loop.is_closed = True
            self._thread.close()
            raise
        close_at_exit(self)
        return self

    def close(self, drain_s: float | None = None) -> None:
        """Give calls under way `drain_s` seconds to end, cancel the rest, free everything.

        Idempotent. Only for a kernel that was started with `start` or `with`; done when the
        program ends if nobody did.
        """
        if self._thread is None or self._loop.is_closed:
            return
        self._loop.refuse_to_block("aclose()")
        try:
            self._thread.run(self.aclose(drain_s))
        finally:
            self._thread.close()
            closed(self)

    async def _boot(self) -> None:
        loop = self._loop.bind()
        clock = LoopClock(loop)
        context = self.config.context
        self._contexts = ContextSwitcher(
            host_bytes=context.host_bytes,
            disk_bytes=context.disk_bytes,
            watermark=context.watermark,
            directory=context.directory,
            events=self.events,
            now=clock.now,
        )
        self.pool = CorePool(
            self._cores(),
            fallbacks=self.config.fallbacks,
            default_model=self.config.default_model,
        )
        self._clock = clock
        settings = self.config.scheduler
        ids = count(1)
        self._dispatcher = Dispatcher(
            Scheduler(self._policy, Admission(settings.keep_warm_s)),
            self.pool,
            self._contexts,
            loop=loop,
            clock=clock,
            events=self.events,
            limits=Limits(
                max_waiting=settings.max_waiting,
                max_waiting_per_agent=settings.max_waiting_per_agent,
                max_attempts=settings.max_attempts,
                core_patience_s=settings.core_patience_s,
                default_timeout_s=settings.default_timeout_s,
            ),
            prices=partial(_price, self.config.prices),
            ids=ids,
        )
        state = self.config.state
        self._state = StateOpener(state.path(), partial(read_key, state.encryption_key))
        self._access = AccessManager(
            self.config.access,
            self._state,
            inherits={name: group.inherits for name, group in self.config.groups.items()},
            approver=self._given_approver,
            events=self.events,
        )
        self._gatekeeper = self._given_gatekeeper or self._access.gate
        self._embedder = self._given_embedder or build_embedder(self.config.embedding)
        self._model_access: dict[str | None, Access] = {}
        self._traps = TrapHandler(
            self._managers(),
            self._gatekeeper,
            ids=ids,
            clock=clock,
            events=self.events,
            default_timeout_s=settings.default_timeout_s,
        )
        self._contexts.on_moving = self._dispatcher.set_moving
        try:
            await self._traps.start()
            await self.pool.start_all(
                {core.name: self._dispatcher.sink(core) for core in self.pool}, clock.now()
            )
        except BaseException:
            await self._traps.close()
            await self._contexts.close()
            await self._close_services()
            await self._embedder.close()
            await self._state.close()
            raise
        self._dispatcher.cores_started()

    async def _close_services(self) -> None:
        """What managers share, the latest first."""
        while self._services:
            await self._services.pop().close()

    def _managers(self) -> Sequence[Manager]:
        """Memory, storage, tools and access, in the order in which they start."""
        self._memory = MemoryManager(
            self._state, self.config.memory, now=self._clock.now, embedder=self._embedder
        )
        retrieval = self.config.retrieval
        spaces = VectorSpaces(self._state, retrieval)
        self._storage = StorageManager(
            self._state,
            self.config.storage,
            index=FileIndex(self._state, self._embedder, spaces, retrieval),
        )
        workspace = MarkingWorkspace(self._storage, self.processes.mark)
        sandbox = Sandbox(self.config.tools.sandbox, workspace=workspace)
        self._code_sessions = AgentSessions(sandbox, workspace, is_alive=self.processes.is_alive)
        self._services += [spaces, sandbox, self._code_sessions]
        self._tools = ToolManager(
            self.config.tools,
            self._state,
            clock=self._clock,
            ports=partial(AgentPort, self),
            select=partial(_select, self._policy),
            make_flow=FlowShare,
            code_runner=CodeService(self._loop, sandbox, self._code_sessions),
        )
        return (
            self._memory,
            self._access,  # the first to start, the last to close: it audits the others
            EmbeddingManager(self._embedder, prices=partial(_price, self.config.prices)),
            CollectionManager(self._state, self._embedder, spaces, retrieval),
            self._storage,
            self._tools,
        )

    def _cores(self) -> Sequence[Core]:
        if self._given_cores is not None:
            return self._given_cores
        if not self.config.cores:
            announce_default_core(sys.stderr)
        return build_cores(self.config.cores)

    async def aclose(self, drain_s: float | None = None) -> None:
        """The same as `close`, on the kernel's loop. Idempotent."""
        if self._loop.is_closed or not self._loop.is_bound:
            return
        self._loop.is_closed = True
        drain_s = self.config.drain_s if drain_s is None else drain_s
        try:
            await asyncio.gather(self._dispatcher.drain(drain_s), self._traps.drain(drain_s))
        finally:
            try:
                await self.pool.close_all()
            finally:
                await self._dispatcher.close()
                await self._contexts.close()
                await self._traps.close()
                await self._close_services()
                await self._embedder.close()
                await self._state.close()

    def _refuse_second_start(self) -> None:
        if self._loop.is_bound or self._loop.is_closed:
            raise KernelClosed("a kernel is started once; make a new one")
        _started.add(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close(0 if kind else None)

    async def __aenter__(self) -> Self:
        self._refuse_second_start()
        try:
            await self._boot()
        except BaseException:
            self._loop.is_closed = True
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose(0 if kind else None)

    # --- agents ------------------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        *,
        group: str | None = None,
        parent: int | None = None,
        priority: int | None = None,
        weight: float = 1.0,
        budget: Budget | None = None,
    ) -> Agent:
        """Start an agent.

        Args:
            name: for people; need not be unique.
            group: its privilege group; None: its parent's, or "default".
            parent: pid of the agent that it belongs to; it inherits priority, budget and end.
            priority: smaller is more urgent; for the policies that look at it.
            weight: share of its group's service under `fair`.
            budget: what it and its children may spend, within the budgets above it.

        Raises:
            KernelClosed, NoSuchObject (parent), RunawayStopped, InvalidRequest.
        """
        return self._loop.call(
            partial(
                self._spawn,
                name,
                group=group,
                parent=parent,
                priority=priority,
                weight=weight,
                budget=budget,
            )
        )

    async def aspawn(self, name: str, **settings: Any) -> Agent:
        """The same from an event loop, without blocking it."""
        return await self._loop.acall(partial(self._spawn, name, **settings))

    def _spawn(self, name: str, **settings: Any) -> Agent:
        process = self.processes.spawn(name, now=self._clock.now(), **settings)
        self._emit(
            EventKind.AGENT_SPAWNED,
            process,
            name=name,
            group=process.group.name,
            identity=process.identity,
        )
        return Agent(self, process)

    def exit(self, pid: int) -> None:
        """End an agent and its children; their calls are cancelled. Unknown pids are ignored."""
        if not self._loop.is_closed:
            self._loop.call(partial(self._exit, pid))

    def exit_soon(self, pid: int) -> None:
        """The same, waiting for nothing; even a garbage collector may call it."""
        self._loop.post_if_open(partial(self._exit_if_open, pid))

    def _exit_if_open(self, pid: int) -> None:
        if not self._loop.is_closed:
            self._exit(pid)

    async def aexit(self, pid: int) -> None:
        """The same from an event loop."""
        if not self._loop.is_closed:
            await self._loop.acall(partial(self._exit, pid))

    def _exit(self, pid: int) -> None:
        try:
            head = self.processes.get(pid)
        except NoSuchObject:
            return
        for process in tuple(head.family()):
            reason = SyscallCancelled(f"agent {process.name!r} exited")
            for call_id in tuple(process.live_calls):
                self._dispatcher.cancel(call_id, reason)
            self._traps.cancel_all(process, reason)
            self._traps.forget(process)
            self._contexts.forget(process.pid)
            self._dispatcher.scheduler.forget(process)
            self.processes.remove(process)
            if self._code_sessions is not None:
                self._code_sessions.forget(process.identity)
            self._emit(EventKind.AGENT_EXITED, process)

    def freeze(self, pid: int) -> None:
        """Take an agent off the cores; see `Agent.freeze`."""
        self._loop.run(self.afreeze(pid))

    async def afreeze(self, pid: int) -> None:
        """The same, awaitable on any loop."""
        await self._loop.arun(self._freeze(pid))

    async def _freeze(self, pid: int) -> None:
        process = self.processes.get(pid)
        if process.state is ProcessState.ACTIVE:
            process.state = ProcessState.FROZEN
            self._emit(EventKind.AGENT_FROZEN, process)
        await self._dispatcher.freeze(process)

    def thaw(self, pid: int) -> None:
        """Let a frozen agent go on."""
        self._loop.call(partial(self._thaw, pid))

    def _thaw(self, pid: int) -> None:
        process = self.processes.get(pid)
        if process.state is ProcessState.FROZEN:
            process.state = ProcessState.ACTIVE
            self._emit(EventKind.AGENT_THAWED, process)
            self._dispatcher.thaw(process)

    def save_agent(self, pid: int, directory: str | Path) -> None:
        """Freeze an agent and write it to a directory; see `Agent.save`.

        Raises `SnapshotError` if the directory cannot be written or belongs to something else, and
        if a call waits that a framework makes itself (mode "admit"); then the agent goes on.
        """
        self._loop.run(self.asave_agent(pid, directory))

    async def asave_agent(self, pid: int, directory: str | Path) -> None:
        """The same, awaitable on any loop."""
        await self._loop.arun(self._save(pid, Path(directory)))

    async def _save(self, pid: int, directory: Path) -> None:
        process = self.processes.get(pid)
        was_active = process.state is ProcessState.ACTIVE
        self._require_savable(process)
        await self._freeze(pid)
        try:
            self._require_savable(process)  # calls may have come meanwhile
        except SnapshotError:
            if was_active:
                self._thaw(pid)
            raise
        calls = self._dispatcher.calls_of(process)
        with self._contexts.holding_still(call.syscall.id for call in calls):
            await self._contexts.settled()
            frozen = FrozenAgent.of(
                process,
                [
                    FrozenCall(
                        call.syscall.request,
                        call.syscall.priority,
                        self._contexts.peek(call.syscall.id) or call.resume_from,
                    )
                    for call in calls
                ],
            )
            await asyncio.to_thread(frozen.write, directory)

    def _require_savable(self, process: AgentProcess) -> None:
        """Look at the calls that wait; one that no core can preempt ends before a save."""
        for call in self._dispatcher.calls_of(process):
            if call.core is None:
                require_savable(process.name, call.syscall.id, call.syscall.request)

    def load_agent(self, directory: str | Path) -> Agent:
        """Bring back an agent that `Agent.save` wrote; its calls in flight go on at once.

        Their answers are in `agent.pending`. What the agent had spent counts against its
        budget still. The directory is only read.

        Raises `SnapshotError` if the directory is damaged, `NoSuchObject` if a model is missing.
        """
        return self._loop.run(self.aload_agent(directory))

    async def aload_agent(self, directory: str | Path) -> Agent:
        """The same, awaitable on any loop."""
        return await self._loop.arun(self._load(Path(directory)))

    async def _load(self, directory: Path) -> Agent:
        frozen = await asyncio.to_thread(FrozenAgent.read, directory)
        routes = [self.pool.route(call.request.model) for call in frozen.calls]
        agent = self._spawn(
            frozen.name,
            group=frozen.group,
            priority=frozen.priority,
            weight=frozen.weight,
            budget=frozen.budget,
        )
        process = self.processes.get(agent.pid)
        process.budget.spent.add(frozen.spent)
        process.accounting = frozen.accounting
        pending = []
        for call, image, route in zip(frozen.calls, frozen.images, routes, strict=True):
            snapshot = call.snapshot
            if snapshot is not None and image is not None:
                snapshot = await self._contexts.adopt(snapshot, image, route)
            answer = ThreadAnswer()
            pending.append(answer.future)
            options = {"priority": call.priority, "resume_from": snapshot}
            self._submit_from_outside(process, call.request, answer, options)
        agent.pending = tuple(pending)
        return agent

    # --- cores -------------------------------------------------------------------------------

    def add_core(self, core: Core) -> None:
        """Start one more core and let it serve.

        Raises `ConfigError` if its name is taken, and `BackendError` if it does not start.
        """
        self._loop.run(self._add_core(core))

    async def aadd_core(self, core: Core) -> None:
        """The same, awaitable on any loop."""
        await self._loop.arun(self._add_core(core))

    async def _add_core(self, core: Core) -> None:
        self.pool.require_new(core)
        await core.start(self._dispatcher.sink(core))
        try:
            self.pool.add(core)
        except ConfigError:  # another of that name was quicker
            await core.close()
            raise
        self.events.emit(
            KernelEvent(self._clock.now(), EventKind.CORE_UP, facts={"core": core.name})
        )

    # --- LLM syscalls ------------------------------------------------------------------------

    def call(self, process: AgentProcess, request: LLMGenerate, **options: Any) -> Completion:
        """Submit a call and wait for its answer, on a thread that is not the kernel's loop.

        Options of this and the next three methods: `timeout_s` and `priority`.
        """
        self._loop.refuse_to_block("agenerate()")
        answer = ThreadAnswer()
        call = self._submit_from_outside(process, request, answer, options)
        try:
            return answer.future.result()
        except KeyboardInterrupt:
            call.withdraw()
            raise

    async def acall(
        self, process: AgentProcess, request: LLMGenerate, **options: Any
    ) -> Completion:
        """Submit a call and await its answer, on any event loop."""
        loop = asyncio.get_running_loop()
        if self._loop.is_here:
            local = LocalAnswer(loop)
            syscall = self._submit(process, request, local, **options)
            try:
                return await local.future
            except asyncio.CancelledError:
                self._dispatcher.cancel(syscall.id)
                raise
        answer = LoopAnswer(loop)
        call = self._submit_from_outside(process, request, answer, options)
        try:
            return await answer.future
        except asyncio.CancelledError:
            call.withdraw()
            raise

    def stream(self, process: AgentProcess, request: LLMGenerate, **options: Any) -> Stream:
        """Submit a call and hand back its deltas, on a thread that is not the kernel's loop."""
        self._loop.refuse_to_block("astream()")
        stream = Stream()
        stream.call = self._submit_from_outside(process, request, stream.answer, options)
        return stream

    def astream(self, process: AgentProcess, request: LLMGenerate, **options: Any) -> AsyncStream:
        """Submit a call and hand back its deltas, on the running event loop."""
        stream = AsyncStream(asyncio.get_running_loop(), is_local=self._loop.is_here)
        stream.call = self._submit_from_outside(process, request, stream.answer, options)
        return stream

    def measure(self, request: LLMGenerate) -> PromptSize:
        """How much room a prompt takes. On the kernel's own loop: if the core can say at once."""
        if not self._loop.is_here:
            return self._loop.run(self._measure(request))
        measuring = self._measure(request)
        try:
            measuring.send(None)
        except StopIteration as done:
            size: PromptSize = done.value
            return size
        measuring.close()
        raise WouldBlock("this is the kernel's own loop, and the core counts elsewhere")

    async def ameasure(self, request: LLMGenerate) -> PromptSize:
        """The same, awaitable on any event loop."""
        return await self._loop.arun(self._measure(request))

    async def _measure(self, request: LLMGenerate) -> PromptSize:
        core = self.pool.route(request.model)[0]
        window = core.capabilities.context_window
        try:
            prepared = core.prepare(request)
            if not isinstance(prepared, Prepared):
                prepared = await prepared
        except ContextOverflow as exc:
            return PromptSize(exc.num_tokens, exc.context_window)
        return PromptSize(prepared.num_tokens, window, prepared.is_exact)

    def _submit(
        self, process: AgentProcess, request: LLMGenerate, answer: Answer, **options: Any
    ) -> Syscall:
        """On the loop: check the agent and accept its call."""
        if self._loop.is_closed:
            raise KernelClosed("the kernel is closed")
        if process.state is ProcessState.EXITED:
            raise SyscallCancelled(f"agent {process.name!r} has exited")
        self._dispatcher.refuse_crowds(process)  # before it counts as one more call
        approval = self._check_model(process, request.model)
        self.processes.admit(process, request)
        return self._dispatcher.submit(process, request, answer, approval=approval, **options)

    def _check_model(self, process: AgentProcess, model: str | None) -> Awaitable[None] | None:
        """Whether the agent may ask the model; made once for each, since calls are many."""
        access = self._model_access.get(model)
        if access is None:
            resource = Resource("model", None, model or self.pool.default_model)
            access = Access(LLMGenerate.kind, Right.EXECUTE, resource)
            if len(self._model_access) < _MAX_KEPT:  # names may be a caller's invention
                self._model_access[model] = access
        return self._gatekeeper.check(process, access)

    def _submit_from_outside(
        self,
        process: AgentProcess,
        request: LLMGenerate,
        answer: Answer,
        options: dict[str, Any],
    ) -> _Submission:
        submission = _Submission(self, process, request, answer, options)
        self._loop.post(submission.submit)
        return submission

    # --- syscalls of the other managers ------------------------------------------------------

    def perform(
        self, process: AgentProcess, request: Request[T], *, timeout_s: float | None = None
    ) -> T:
        """Make a request and wait for its answer, on a thread that is not the kernel's loop."""
        return self._loop.run(self._perform(process, request, timeout_s))

    async def aperform(
        self, process: AgentProcess, request: Request[T], *, timeout_s: float | None = None
    ) -> T:
        """The same, awaitable on any event loop. Cancelling the await cancels the request."""
        return await self._loop.arun(self._perform(process, request, timeout_s))

    async def _perform(
        self, process: AgentProcess, request: Request[T], timeout_s: float | None
    ) -> T:
        if request.is_guarded:
            self.processes.admit(process, request)
        answer: T = await self._traps.perform(process, request, timeout_s=timeout_s)
        return answer

    # --- tools -------------------------------------------------------------------------------

    def load_tools(self, source: Loadable) -> tuple[str, ...]:
        """Offer the tools of a file, a module, a function or an MCP server to all agents.

        Done by whoever runs the kernel, so nobody is asked; `agent.tools.load` is a syscall.
        """
        return self._loop.run(self.aload_tools(source))

    async def aload_tools(self, source: Loadable) -> tuple[str, ...]:
        """The same, awaitable on any event loop."""
        return await self._loop.arun(self._tools.catalogue.load(source))

    def unload_tools(self, name: str) -> tuple[str, ...]:
        """Offer a plug-in, a tool or a version to all agents no more; the ids.

        Done by whoever runs the kernel, so nobody is asked; `agent.tools.unload` is a syscall.
        Raises `NoSuchObject`.
        """
        return self._loop.run(self.aunload_tools(name))

    async def aunload_tools(self, name: str) -> tuple[str, ...]:
        """The same, awaitable on any event loop."""
        return await self._loop.arun(self._tools.unload(name))

    # --- access ------------------------------------------------------------------------------

    def reload_policy(self) -> None:
        """Put the policy file in force at once; changes of it are also noticed within seconds.

        Raises `ConfigError` with the line and the rule if it is broken; the old one stays.
        """
        self._loop.run(self._access.reload())

    async def areload_policy(self) -> None:
        """The same, awaitable on any event loop."""
        await self._loop.arun(self._access.reload())

    def explain(self, agent: str, action: str, resource: str, **about: Any) -> Explanation:
        """Whether an agent may do something to a resource, and each thing that was considered.

        Args:
            agent: its identity, such as "default/bob".
            action: such as "memory.read".
            resource: "kind:owner:name".
            about: `right`, `arguments`, `labels`, `irreversible`.

        Raises:
            InvalidRequest: one of them is malformed.
        """
        return self._loop.run(explained(self._access, agent, action, resource, **about))

    async def aexplain(self, agent: str, action: str, resource: str, **about: Any) -> Explanation:
        """The same, awaitable on any event loop."""
        return await self._loop.arun(explained(self._access, agent, action, resource, **about))

    # --- looking in --------------------------------------------------------------------------

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` every event from now on. Returns a function that ends it."""
        return self.events.subscribe(observer)

    @property
    def num_under_way(self) -> int:
        """Syscalls that are served just now. From any thread."""
        return self._dispatcher.num_under_way + self._traps.num_under_way

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant of every part holds."""
        self._loop.call(self._check)

    def _check(self) -> None:
        self.processes.check()
        self._dispatcher.check()
        self._contexts.check()
        self._traps.check()

    # --- inside ------------------------------------------------------------------------------

    def _emit(self, kind: EventKind, process: AgentProcess, **facts: Any) -> None:
        if self.events:
            self.events.emit(KernelEvent(self._clock.now(), kind, process.pid, facts=facts))


@dataclass(slots=True, eq=False)
class _Submission:
    """A call on its way to the loop, from outside of it."""

    kernel: Kernel
    process: AgentProcess
    request: LLMGenerate
    answer: Answer
    options: dict[str, Any]
    syscall: Syscall | None = None

    def submit(self) -> None:
        """On the loop. A refusal is the caller's answer."""
        try:
            self.syscall = self.kernel._submit(  # noqa: SLF001
                self.process, self.request, self.answer, **self.options
            )
        except Exception as exc:  # noqa: BLE001 - whatever it is, somebody waits to hear of it
            self.answer.reject(exc)

    def withdraw(self) -> None:
        """Cancel the call, from any thread and at any point: a garbage collector may call it."""
        self.kernel._loop.post_if_open(self._cancel)  # noqa: SLF001

    def _cancel(self) -> None:
        if self.syscall is not None:
            self.kernel._dispatcher.cancel(self.syscall.id)  # noqa: SLF001


def _policy(chosen: str | Policy, config: KernelConfig) -> Policy:
    if isinstance(chosen, Policy):
        return chosen
    if chosen not in POLICIES:
        raise NoSuchObject("policy", chosen, POLICIES)
    settings = config.scheduler
    policy = POLICIES[chosen]()
    if settings.quantum is not None:
        policy = replace(policy, quantum=settings.quantum)
    if settings.max_wait_s is not None:
        policy = replace(policy, max_wait_s=settings.max_wait_s)
    return policy


def _select(policy: Policy, num_waiting: int, num_slots: int, num_groups: int) -> Policy:
    """What the policy uses for the calls of tools under that load."""
    return policy.select(QueueLoad(num_waiting, num_slots, num_groups))


def _price(prices: Mapping[str, Price], model: str) -> Price:
    """What a model costs; a provider's own model the same, when its caller asks for it."""
    return prices.get(model.removesuffix(AT_PROVIDER), _FREE)


_FREE = Price()
_MAX_KEPT = 1_000

_started: WeakSet[Kernel] = WeakSet()


def _close_in_child() -> None:
    """After a fork: the threads of these kernels live in the parent; here they are closed."""
    for kernel in _started:
        kernel._loop.is_closed = True  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
