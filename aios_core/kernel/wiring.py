"""The parts of a running kernel: the boxes of the paper's figure, wired and closed together."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from aios_core.access import AccessManager, Approver
from aios_core.access.policy.grant_warnings import Census
from aios_core.budget import FREE, Price
from aios_core.clock import LoopClock
from aios_core.config import KernelConfig
from aios_core.context import ContextSwitcher
from aios_core.core import Core
from aios_core.cores.deltas import messages_of
from aios_core.cores.embedding import EmbeddingManager, build_embedder
from aios_core.cores.external import PROVIDER_SUFFIX
from aios_core.cores.factory import announce_default_core, build_cores
from aios_core.cores.pool import CorePool
from aios_core.errors import KernelError
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.kernel.core_roster import CoreRoster
from aios_core.kernel.loop_portal import LoopPortal
from aios_core.kernel.provenance import LabelledTexts
from aios_core.kernel.syscall_handler import SyscallHandler
from aios_core.manager import Gatekeeper, Manager, Port
from aios_core.memory import MemoryManager
from aios_core.process import AgentProcess, ProcessTable
from aios_core.redaction import learn_environment, learn_settings
from aios_core.retrieval.embedding import BilledEmbedder, Embedder
from aios_core.retrieval.vector_search import VectorSearch
from aios_core.scheduler import Dispatcher, Policy, Scheduler
from aios_core.scheduler.admission import AdmissionController
from aios_core.scheduler.overload import QueueLimits
from aios_core.shielding import finish_shielded
from aios_core.state import StateOpener, read_key
from aios_core.storage import StorageManager
from aios_core.storage.collections import CollectionManager
from aios_core.storage.file_indexer import FileIndexer
from aios_core.tools import ToolManager
from aios_core.tools.sandbox import AgentSessions, CodeService, LabelingWorkspace, Sandbox


@dataclass(frozen=True, slots=True)
class Overrides:
    """The components that a caller passed to a kernel; None: built from the configuration."""

    policy: Policy
    cores: Sequence[Core] | None = None  # None: `make_cores` has them made
    gatekeeper: Gatekeeper | None = None
    approver: Approver | None = None
    embedder: Embedder | None = None
    managers: Sequence[Manager] = ()  # in addition to the kernel's own


def make_cores(config: KernelConfig) -> Sequence[Core]:
    """Make the configured cores. Blocks: it imports what they need, and looks at files."""
    if not config.cores:
        announce_default_core(sys.stderr)
    return build_cores(config.cores)


def _learn_secrets(cores: Sequence[Core]) -> None:
    """Note what is never to be shown: of the environment, and keys that cores were made with."""
    learn_environment(os.environ)
    for core in cores:
        learn_settings(getattr(core, "__dict__", {}))


class Components:
    """Everything that works inside a kernel. Made on its loop, and touched only there."""

    def __init__(
        self,
        config: KernelConfig,
        given: Overrides,
        *,
        events: EventStream,
        processes: ProcessTable,
        crossing: LoopPortal,
        port: Callable[[AgentProcess], Port],
    ) -> None:
        """Wire them; nothing starts. Raises `ConfigError`."""
        self._config, self._given = config, given
        self._events, self._processes = events, processes
        loop = asyncio.get_running_loop()
        self.clock = LoopClock(loop)
        context = config.context
        self.contexts = ContextSwitcher(
            host_bytes=context.host_bytes,
            disk_bytes=context.disk_bytes,
            watermark=context.watermark,
            directory=context.directory,
            events=events,
            now=self.clock.now,
        )
        _learn_secrets(given.cores or ())
        self.pool = CorePool(
            given.cores or (), fallbacks=config.fallbacks, default_model=config.default_model
        )
        ids = count(1)
        self.dispatcher = self._dispatcher(loop, ids)
        self._state = StateOpener(
            config.state.path(), partial(read_key, config.state.encryption_key)
        )
        self.access = AccessManager(
            config.access,
            self._state,
            inherits={name: group.inherits for name, group in config.groups.items()},
            approver=given.approver,
            events=events,
        )
        self.texts = LabelledTexts()
        self.gatekeeper = given.gatekeeper or self.access.gate
        self._embedder = BilledEmbedder(
            given.embedder or build_embedder(config.embedding),
            partial(_price, config.prices),
            self._tell,
        )
        self.traps = SyscallHandler(
            (*self._managers(crossing, port), *given.managers),
            self.gatekeeper,
            ids=ids,
            clock=self.clock,
            events=events,
            default_timeout_s=config.scheduler.default_timeout_s,
            texts=self.texts,
        )
        self.contexts.on_moving = self.dispatcher.set_moving
        self.roster = CoreRoster(
            self.pool, self.dispatcher, self.contexts, events=events, clock=self.clock
        )

    def _tell(self, kind: EventKind, process: AgentProcess, facts: Mapping[str, Any]) -> None:
        """Notify observers of an event of an agent outside of its LLM calls."""
        self._events.emit(KernelEvent(self.clock.now(), kind, process.pid, facts=dict(facts)))

    def _dispatcher(self, loop: asyncio.AbstractEventLoop, ids: count[int]) -> Dispatcher:
        settings = self._config.scheduler
        return Dispatcher(
            Scheduler(self._given.policy, AdmissionController(settings.keep_warm_s)),
            self.pool,
            self.contexts,
            loop=loop,
            clock=self.clock,
            events=self._events,
            limits=QueueLimits(
                max_waiting=settings.max_waiting,
                max_waiting_per_agent=settings.max_waiting_per_agent,
                max_attempts=settings.max_attempts,
                max_retry_s=settings.max_retry_s,
                core_wait_s=settings.core_wait_s,
                default_timeout_s=settings.default_timeout_s,
                expected_answer_tokens=settings.expected_answer_tokens,
            ),
            prices=partial(_price, self._config.prices),
            join=messages_of,
            ids=ids,
        )

    def _managers(
        self, crossing: LoopPortal, port: Callable[[AgentProcess], Port]
    ) -> Sequence[Manager]:
        """Memory, storage, tools and access, in the order in which they start."""
        config, state, embedder = self._config, self._state, self._embedder
        self.memory = MemoryManager(state, config.memory, now=self.clock.now, embedder=embedder)
        vector_search = VectorSearch(state, config.retrieval)
        index = FileIndexer(state, embedder, vector_search, config.retrieval)
        self.storage = StorageManager(state, config.storage, index=index)
        workspace = LabelingWorkspace(self.storage, self._processes.mark)
        sandbox = Sandbox(config.tools.sandbox, workspace=workspace)
        self._sessions = AgentSessions(sandbox, workspace, is_alive=self._processes.is_alive)
        self._shared = (vector_search, sandbox, self._sessions)
        self.tools = ToolManager(
            config.tools,
            state,
            clock=self.clock,
            ports=port,
            policy=self._given.policy,
            code_runner=CodeService(crossing, sandbox, self._sessions),
        )
        collections = CollectionManager(state, embedder, vector_search, config.retrieval)
        self.access.census = Census(
            (self.memory, self.storage, collections, self.tools),
            self._processes.is_alive,
            lambda: self._processes.groups,
        )
        return (
            self.memory,
            self.access,  # the first to start, the last to close: it audits the others
            EmbeddingManager(embedder),
            collections,
            self.storage,
            self.tools,
        )

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open what has to be opened and wait until the cores serve.

        Raises `BackendError` if no core can; all is closed then.
        """
        try:
            await self.traps.start()
            await self.pool.start_all(
                {core.name: self.dispatcher.sink(core) for core in self.pool}, self.clock.now()
            )
        except BaseException:
            await finish_shielded(self._free(asyncio.current_task()))
            raise
        self.dispatcher.on_cores_started()

    async def close(self, drain_s: float) -> None:
        """Wait `drain_s` seconds for requests in flight, cancel the rest, and free everything."""
        caller = asyncio.current_task()
        await self.roster.close()
        try:
            await asyncio.gather(self.dispatcher.drain(drain_s), self.traps.drain(drain_s, caller))
        finally:
            await finish_shielded(self._free(caller))

    async def _free(self, caller: asyncio.Task[Any] | None) -> None:
        """Close the components in order, each of them even if another one fails.

        `caller` is the task that waits for this, and therefore is not waited for.
        """
        async with AsyncExitStack() as stack:  # the last one pushed closes first
            stack.push_async_callback(self._state.close)
            stack.push_async_callback(self._embedder.close)
            for service in self._shared:
                stack.push_async_callback(service.close)
            stack.push_async_callback(self.traps.close, caller)
            stack.push_async_callback(self.contexts.close)
            stack.push_async_callback(self.dispatcher.close)
            stack.push_async_callback(self.pool.close_all)

    def forget(self, process: AgentProcess, reason: KernelError) -> None:
        """Cancel the requests of an agent that exits, and free everything held for it."""
        for call_id in tuple(process.live_calls):
            self.dispatcher.cancel(call_id, reason)
        self.traps.cancel_all(process, reason)
        self.traps.forget(process)
        self.contexts.forget(process.pid)
        self.dispatcher.scheduler.forget(process)
        self._sessions.forget(process.identity)

    @property
    def num_in_flight(self) -> int:
        """Syscalls that are served just now. From any thread."""
        return self.dispatcher.num_in_flight + self.traps.num_in_flight

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant of every part holds."""
        self._processes.check()
        self.dispatcher.check()
        self.contexts.check()
        self.traps.check()


def _price(prices: Mapping[str, Price], model: str) -> Price:
    """Return the price of a model, or of the same model called at its provider."""
    return prices.get(model.removesuffix(PROVIDER_SUFFIX), FREE)
