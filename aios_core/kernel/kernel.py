"""The kernel: the border between callers and the parts that work for them.

It runs on one asyncio loop and only that loop touches its state, so there are no
locks on it. `with Kernel(...)` gives the loop a thread of its own; `async with
Kernel(...)` uses the caller's loop, where a syscall costs no thread hop. Either
way, any thread and any other event loop may call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from aios_core.access import (
    Approver,
    Callback,
    CallbackApprover,
    ExplainOptions,
    Explanation,
    explain_in_words,
)
from aios_core.accounting import GroupStatus
from aios_core.budget import Budget
from aios_core.config import KernelConfig
from aios_core.core import Core, PromptSize
from aios_core.cores.pool import CorePool
from aios_core.errors import KernelClosed, KernelError
from aios_core.events import EventStream, Observer
from aios_core.kernel.agent import Agent
from aios_core.kernel.arguments import (
    checked_cores,
    checked_observers,
    chosen_policy,
    require_a,
    require_methods,
)
from aios_core.kernel.core_roster import CoreRoster
from aios_core.kernel.cores import CoreOperations
from aios_core.kernel.exit import register_for_exit, unregister
from aios_core.kernel.lifecycle import Lifecycle
from aios_core.kernel.loop_portal import LoopPortal
from aios_core.kernel.loop_thread import LoopThread
from aios_core.kernel.port import AgentPort, Submitter
from aios_core.kernel.trace import Trace, free_path
from aios_core.kernel.wiring import Components, Overrides, make_cores
from aios_core.manager import Gatekeeper
from aios_core.options import SpawnOptions
from aios_core.process import AgentProcess, ProcessTable
from aios_core.retrieval.embedding import Embedder
from aios_core.scheduler import Policy
from aios_core.shielding import finish_shielded
from aios_core.syscalls import LLMGenerate
from aios_core.tools.handle import Loadable
from aios_core.untrusted.arguments import (
    require_number,
    require_path,
    require_text,
)


@dataclass(frozen=True, slots=True)
class _Inside:
    """The components of a started kernel."""

    parts: Components
    lifecycle: Lifecycle
    submitter: Submitter


class Kernel(CoreOperations):
    """An operating system for agents, in this process.

    Args:
        config: None reads `aios.toml` and the environment (`KernelConfig.load`).
        cores: use these instead of the configured ones.
        policy: use this one, by name or as an instance, instead of the configured one.
        gatekeeper: decides who may do what, instead of the configured access manager.
        approver: asks people about what cannot be undone, instead of the configured one; a
            function may be given, which takes an `ApprovalRequest` and answers True or False.
        embedder: turns texts into vectors, instead of the configured one; closed with the kernel.
        observers: called with every `KernelEvent`.

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
        require_a("config", self.config, KernelConfig)
        require_methods("gatekeeper", gatekeeper, "authorize", "record")
        require_methods("embedder", embedder, "embed", "close")
        if not callable(approver):
            require_methods("approver", approver, "ask")
        self.events = EventStream(checked_observers(observers))
        self._policy = chosen_policy(
            self.config.scheduler.policy if policy is None else policy, self.config
        )
        self._given = Overrides(
            self._policy, checked_cores(cores), gatekeeper, CallbackApprover.of(approver), embedder
        )
        self._thread: LoopThread | None = None
        self._loop = LoopPortal()
        self._started: _Inside | None = None
        self._traces: list[Trace] = []
        self.processes = ProcessTable(self.config.guard)
        for name, group in self.config.groups.items():
            self.processes.add_group(name, weight=group.weight, budget=group.budget)

    def __repr__(self) -> str:
        loop = self._loop
        state = "closed" if loop.is_closed else "running" if loop.is_bound else "not started"
        return f"<Kernel {state}: {len(self.processes)} agents, policy {self._policy.name!r}>"

    # --- lifecycle ---------------------------------------------------------------------------

    def start(self) -> Self:
        """Start on a thread of its own and wait until the cores serve.

        Raises `BackendError` if no core can; the kernel is closed then.
        """
        self._refuse_second_start()
        self._thread = LoopThread()
        try:
            self._thread.run(self._boot())
        except BaseException as exc:
            self._loop.is_closed = True
            # An import in a worker thread cannot be stopped; Ctrl-C does not wait for it.
            self._thread.close(within_s=1.0 if isinstance(exc, KeyboardInterrupt) else None)
            raise
        register_for_exit(self)
        return self

    def close(self, drain_s: float | None = None) -> None:
        """Wait `drain_s` seconds for calls in flight, cancel the rest, and free everything.

        Idempotent. Only for a kernel that was started with `start` or `with`; done when the
        program ends, if it was not closed before.
        """
        if self._thread is None or self._loop.is_closed:
            return
        self._loop.require_off_loop("aclose()")
        try:
            self._thread.run(self.aclose(drain_s))
        finally:
            self._thread.close()
            unregister(self)

    async def _boot(self) -> None:
        self._loop.bind()
        given = self._given
        if given.cores is None:
            given = replace(given, cores=await asyncio.to_thread(make_cores, self.config))
        parts = Components(
            self.config,
            given,
            events=self.events,
            processes=self.processes,
            crossing=self._loop,
            port=self._port,
        )
        submitter = Submitter(parts, self.processes, self._loop)
        lives = Lifecycle(parts, self.processes, self.events, submitter.post)
        self._started = _Inside(parts, lives, submitter)
        try:
            if self.config.trace is not None:
                await asyncio.to_thread(lambda: self.trace(free_path(str(self.config.trace))))
            await parts.start()
        except BaseException as exc:
            if isinstance(exc, KernelError):
                exc.is_startup = True
            await finish_shielded(self._close_traces())
            raise

    @property
    def _inside(self) -> _Inside:
        """The components. Raises `KernelClosed` before the kernel has started."""
        if self._started is None:
            self._loop.loop()
            raise KernelClosed("the kernel has not started")
        return self._started

    @property
    def pool(self) -> CorePool:
        """The pool of cores, for inspection. Raises `KernelClosed` before the start."""
        return self._inside.parts.pool

    async def aclose(self, drain_s: float | None = None) -> None:
        """Close without blocking the event loop (async form of `close`). Idempotent."""
        if self._loop.is_closed or not self._loop.is_bound:
            return
        require_number("drain_s", drain_s, at_least=0)
        self._loop.is_closed = True
        try:
            await self._inside.parts.close(self.config.drain_s if drain_s is None else drain_s)
        finally:
            await finish_shielded(self._close_traces())

    async def _close_traces(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(trace.close) for trace in self._traces))

    def _refuse_second_start(self) -> None:
        if self._loop.is_bound or self._loop.is_closed:
            raise KernelClosed("a kernel is started once; make a new one")
        self._loop.watch_forks()

    def copy_for_fork(self) -> Kernel:
        """Return an unstarted kernel of the same configuration, for a forked child.

        Tools that were loaded later and observers are not copied. Raises `KernelClosed` if
        this one was given cores, an embedder, a gatekeeper or an approver as objects: they
        have threads, connections or state that cannot be had twice.
        """
        given = self._given
        approver = given.approver if isinstance(given.approver, CallbackApprover) else None
        objects = {
            "cores": given.cores is not None,
            "an embedder": given.embedder is not None,
            "a gatekeeper": given.gatekeeper is not None,
            "an approver": given.approver is not approver,
            "managers": bool(given.managers),
        }
        if listed := ", ".join(name for name, is_given in objects.items() if is_given):
            raise KernelClosed(
                f"this process was forked, and the kernel of its parent has {listed} as "
                "objects, which work only in the parent; make a Kernel here and pass it to "
                "`set_default_kernel`, or start the process by 'spawn' instead of 'fork'"
            )
        return Kernel(self.config, policy=self._policy, approver=approver)

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
            group: its group, for rights, weight and budget; None: its parent's, or "default".
            parent: pid of the agent that it belongs to; it inherits priority, budget and end.
            priority: smaller is more urgent; for the policies that look at it.
            weight: share of its group's service under `fair`.
            budget: what it and its children may spend, within the budgets above it.

        Raises:
            InvalidRequest: an argument is malformed, or there is no such parent.
            RunawayStopped: `[guard]` allows no further agent, or none so deep.
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

    async def aspawn(self, name: str, **settings: Unpack[SpawnOptions]) -> Agent:
        """Start an agent without blocking the event loop; `spawn` documents the arguments."""
        return await self._loop.acall(partial(self._spawn, name, **settings))

    def _spawn(self, name: str, **settings: Unpack[SpawnOptions]) -> Agent:
        return Agent(self, self._port(self._inside.lifecycle.spawn(name, **settings)))

    def _port(self, process: AgentProcess) -> AgentPort:
        """Build the port through which one agent makes its requests."""
        return AgentPort(self._loop, self._inside.submitter, process)

    def exit(self, pid: int) -> None:
        """End an agent and its children; their calls are cancelled. Unknown pids are ignored."""
        if not self._loop.is_closed:
            self._loop.call(partial(self._inside.lifecycle.exit, pid))

    def request_exit(self, pid: int) -> None:
        """Request the end of an agent without waiting. Safe in finalizers, on any thread."""
        self._loop.post_if_open(partial(self._exit_if_open, pid))

    def _exit_if_open(self, pid: int) -> None:
        if not self._loop.is_closed:
            self._inside.lifecycle.exit(pid)

    async def aexit(self, pid: int) -> None:
        """End an agent without blocking the event loop (async form of `exit`)."""
        if not self._loop.is_closed:
            await self._loop.acall(partial(self._inside.lifecycle.exit, pid))

    def freeze(self, pid: int) -> None:
        """Take an agent off the cores until `thaw`; returns once it holds no slot."""
        self._loop.run(self.afreeze(pid))

    async def afreeze(self, pid: int) -> None:
        """Freeze an agent without blocking the event loop (async form of `freeze`)."""
        await self._loop.arun(self._inside.lifecycle.freeze(pid))

    def thaw(self, pid: int) -> None:
        """Let a frozen agent continue."""
        self._loop.call(partial(self._inside.lifecycle.thaw, pid))

    def save_agent(self, pid: int, directory: str | Path) -> None:
        """Freeze an agent and write it to a directory, with its generations in flight.

        Raises `SnapshotError` if the directory cannot be written or belongs to something else, and
        if an external call of a framework is in flight; then the agent continues.
        """
        self._loop.run(self.asave_agent(pid, directory))

    async def asave_agent(self, pid: int, directory: str | Path) -> None:
        """Save an agent without blocking the event loop (async form of `save_agent`)."""
        await self._loop.arun(
            self._inside.lifecycle.save(pid, require_path("directory", directory))
        )

    def load_agent(self, directory: str | Path) -> Agent:
        """Bring back an agent that `Agent.save` wrote; its calls in flight continue at once.

        Their answers are in `agent.resumed_calls`; cancelling one cancels its call. What the
        agent had spent still counts against its budget. It gets its identity back, and so its
        memory and files, unless an agent of that identity is alive: then it is a copy, with
        an identity of its own. The directory is only read.

        Raises `SnapshotError` if the directory is damaged, `NoSuchObject` if a model is missing.
        """
        return self._loop.run(self.aload_agent(directory))

    async def aload_agent(self, directory: str | Path) -> Agent:
        """Load an agent without blocking the event loop (async form of `load_agent`)."""
        return await self._loop.arun(self._load(require_path("directory", directory)))

    async def _load(self, directory: Path) -> Agent:
        process, pending = await self._inside.lifecycle.load(directory)
        agent = Agent(self, self._port(process))
        agent.resumed_calls = tuple(pending)
        return agent

    # --- cores: see `CoreOperations` ----------------------------------------------------------

    @property
    def _roster(self) -> CoreRoster:
        return self._inside.parts.roster

    def measure_prompt(self, request: LLMGenerate) -> PromptSize:
        """Count the tokens of a prompt. May raise `WouldBlock` on the kernel's own loop."""
        require_a("request", request, LLMGenerate)
        return self._inside.submitter.measure_blocking(request)

    async def ameasure_prompt(self, request: LLMGenerate) -> PromptSize:
        """Count the tokens of a prompt without blocking the event loop."""
        require_a("request", request, LLMGenerate)
        return await self._loop.arun(self._inside.submitter.measure(request))

    # --- tools -------------------------------------------------------------------------------

    def load_tools(self, source: Loadable) -> tuple[str, ...]:
        """Offer the tools of a file, a module, a function or an MCP server to all agents.

        The operator of the kernel calls it, so no access check is made; `agent.tools.load` is
        the syscall.
        """
        return self._loop.run(self.aload_tools(source))

    async def aload_tools(self, source: Loadable) -> tuple[str, ...]:
        """Load tools without blocking the event loop (async form of `load_tools`)."""
        return await self._loop.arun(self._inside.parts.tools.catalog.load(source))

    def unload_tools(self, name: str) -> tuple[str, ...]:
        """Stop offering a plug-in, a tool or a version to all agents. Returns the removed ids.

        The operator of the kernel calls it, so no access check is made; `agent.tools.unload` is
        the syscall.
        Raises `NoSuchObject`.
        """
        return self._loop.run(self.aunload_tools(name))

    async def aunload_tools(self, name: str) -> tuple[str, ...]:
        """Unload tools without blocking the event loop (async form of `unload_tools`)."""
        require_text("name", name)
        return await self._loop.arun(self._inside.parts.tools.unload(name))

    # --- access ------------------------------------------------------------------------------

    def reload_access_policy(self) -> None:
        """Put the access policy file in force at once. Changes are also noticed within seconds.

        Raises `ConfigError` with the line and the rule if it is invalid; the old policy stays.
        """
        self._loop.run(self.areload_access_policy())

    async def areload_access_policy(self) -> None:
        """Reload the policy file without blocking the event loop."""
        await self._loop.arun(self._inside.parts.access.reload())

    def explain_access(
        self, agent: str, action: str, resource: str, **about: Unpack[ExplainOptions]
    ) -> Explanation:
        """Explain whether an agent may do something to a resource, with all that was considered.

        Args:
            agent: its identity, such as "default/bob".
            action: such as "memory.read".
            resource: "kind:owner:name".
            about: further facts of the request: `right`, `arguments`, `labels`, `irreversible`.

        Raises:
            InvalidRequest: one of them is malformed.
        """
        return self._loop.run(self.aexplain_access(agent, action, resource, **about))

    async def aexplain_access(
        self, agent: str, action: str, resource: str, **about: Unpack[ExplainOptions]
    ) -> Explanation:
        """Explain an access without blocking the event loop (async form of `explain_access`)."""
        access = self._inside.parts.access
        return await self._loop.arun(explain_in_words(access, agent, action, resource, **about))

    # --- observing ---------------------------------------------------------------------------

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Notify `observer` of every event from now on. Returns a function that unsubscribes it."""
        checked_observers([observer])
        return self.events.subscribe(observer)

    def trace(self, path: str | Path) -> Trace:
        """Start to write a trace to a file, for https://ui.perfetto.dev.

        The trace ends with its `close`, as a context manager, or with the kernel. Raises
        `InvalidRequest` if the file cannot be written.
        """
        trace = Trace(path)
        self.events.subscribe(trace)
        self._traces.append(trace)
        return trace

    def groups(self) -> list[GroupStatus]:
        """Return the status of every group: its budget, what is left of it, its usage."""
        return self._loop.call(self.processes.group_statuses)

    def time(self) -> float:
        """Return the time of the kernel's clock in seconds; the `at` of events is on this clock."""
        return self._inside.parts.clock.now()

    @property
    def num_in_flight(self) -> int:
        """The number of syscalls in flight. May be read on any thread."""
        return self._inside.parts.num_in_flight

    def check(self) -> None:
        """Raise `KernelBug` unless all invariants hold. For tests and debugging."""
        self._loop.call(self._inside.parts.check)
