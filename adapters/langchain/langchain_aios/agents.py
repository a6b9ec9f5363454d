"""Which agent a call belongs to, found without the user's help.

In this order: the agent that is named (in the run's config, then on the model),
LangGraph's `thread_id`, the root run (one `invoke` of a graph or chain with all
that it starts, sub-agents and tools included), and for a call outside any run
the asyncio task or the thread that makes it.

    agent           ends
    named           with its kernel
    thread_id       when nobody used it for `idle_s`
    root run        with the run
    asyncio task    with the task
    thread          when nobody used it for `idle_s`

A run knows only its parent, so `RunTracker`, a callback handler that LangChain
adds to every run of the process, keeps who descends from whom. `AgentDirectory`
keeps the agents; at most `max_agents` of them, the least recently used go first.
One lock guards each; neither is held while the kernel is asked for anything.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
)
from langchain_core.runnables import ensure_config
from langchain_core.tracers.context import register_configure_hook

from aios_core import Agent, Budget, Kernel, ProcessState
from aios_core.errors import InvalidRequest, KernelClosed

RunManager = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None

_IDLE_S: Final = 600.0
_MAX_AGENTS: Final = 10_000
_MAX_RUNS: Final = 100_000  # runs whose end was never told would stay for ever


class Kind(StrEnum):
    """How an agent was found."""

    NAMED = "named"
    CONVERSATION = "thread_id"
    RUN = "root run"
    TASK = "asyncio task"
    THREAD = "thread"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose call it is. Calls of equal identity are calls of one agent."""

    kind: Kind
    key: object
    name: str = field(compare=False)  # what the agent is called


@dataclass(frozen=True, slots=True)
class Settings:
    """What an agent is spawned with. None: the kernel's default."""

    group: str | None = None
    priority: int | None = None
    weight: float = 1.0
    budget: Budget | None = None


# --- runs --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Root:
    """The outermost run that a run is a part of."""

    run_id: UUID
    name: str
    caller: Identity  # the task or thread that began it


class RunTracker(BaseCallbackHandler):
    """Knows the root of every run that goes on in this process, and tells when one ends.

    Invariant: a root that has ended has no descendants here. (A cancelled run may
    end without a word; it goes with its root.)
    """

    run_inline = True  # a look into a dictionary; no thread is worth it

    def __init__(self, on_end: Callable[[Root], None]) -> None:
        self._on_end = on_end
        self._roots: OrderedDict[UUID, Root] = OrderedDict()
        self._families: dict[UUID, set[UUID]] = {}  # the runs of each root
        self._lock = threading.Lock()  # guards _roots and _families

    @property
    def num_runs(self) -> int:
        """How many runs go on. Not `__len__`, since LangChain takes an empty handler for none."""
        return len(self._roots)

    def root_of(self, run_id: UUID) -> Root | None:
        """The root of a run under way; None if LangChain did not tell us of the run."""
        return self._roots.get(run_id)

    def is_live(self, run_id: UUID) -> bool:
        """Whether the run still goes on."""
        return run_id in self._roots

    def begin(self, run_id: UUID, parent_run_id: UUID | None, name: object) -> None:
        """A run begins. Without a parent, or with one that is not known, it is a root."""
        with self._lock:
            root = self._roots.get(parent_run_id) if parent_run_id else None
            root = root or Root(run_id, str(name or "run"), _caller())
            self._roots[run_id] = root
            self._families.setdefault(root.run_id, set()).add(run_id)
        if len(self._roots) > _MAX_RUNS:
            self.end(next(iter(self._roots)))

    def end(self, run_id: UUID) -> None:
        """A run ends; if it is a root, its family does. Nothing happens the second time."""
        with self._lock:
            if (root := self._roots.pop(run_id, None)) is None:
                return
            if root.run_id != run_id:
                self._families[root.run_id].discard(run_id)
                return
            for descendant in self._families.pop(run_id):
                self._roots.pop(descendant, None)
        self._on_end(root)

    @contextmanager
    def during(self, run_manager: RunManager) -> Iterator[None]:
        """For the call of a run. LangChain does not tell that it was cancelled; this does."""
        try:
            yield
        except asyncio.CancelledError:
            if run_manager:
                self.end(run_manager.run_id)
            raise

    # LangChain's side: one method for each kind of run and each way to end.

    def on_chain_start(
        self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
    ) -> None:
        """A run of any kind begins."""
        self.begin(run_id, parent_run_id, more.get("name"))

    on_tool_start = on_retriever_start = on_llm_start = on_chat_model_start = on_chain_start

    def on_chain_end(self, *_: Any, run_id: UUID, **_more: Any) -> None:
        """A run of any kind ends, in whatever way."""
        self.end(run_id)

    on_tool_end = on_retriever_end = on_llm_end = on_chain_end
    on_chain_error = on_tool_error = on_retriever_error = on_llm_error = on_chain_end


# --- identities --------------------------------------------------------------------------------


def identify(
    tracker: RunTracker, name: str | None, defaults: Settings, run_manager: RunManager
) -> tuple[Identity, Settings]:
    """Whose call this is, and what its agent shall be like.

    Args:
        tracker: knows the runs.
        name: of the agent, as the model was told; None if it was not.
        defaults: as the model was told; the run's config goes before them.
        run_manager: of the call; None outside LangChain's own entry points.

    Raises:
        InvalidRequest: an `aios_...` key of the config has a bad value.
    """
    config = _config_of(run_manager)
    settings = _settings(config, defaults)
    if named := config.get("aios_agent") or name:
        return Identity(Kind.NAMED, (str(named), settings.group), str(named)), settings
    if thread_id := config.get("thread_id"):
        return Identity(Kind.CONVERSATION, str(thread_id), f"thread {thread_id}"), settings
    run_id = run_manager.run_id if run_manager else None
    root = tracker.root_of(run_id) if run_id else None
    if root is not None and root.run_id != run_id:
        name = f"{root.name}-{root.run_id.hex[-6:]}"
        return Identity(Kind.RUN, root.run_id, name), settings
    # LangChain makes an asynchronous call in a task of its own; the tracker saw whose it is.
    return root.caller if root else _caller(), settings


def _config_of(run_manager: RunManager) -> dict[str, Any]:
    """Metadata and configurable of the run; the call's own metadata goes first."""
    around = ensure_config()
    inner = run_manager.metadata if run_manager else {}
    return {**around["configurable"], **around["metadata"], **inner}


def _settings(config: Mapping[str, Any], defaults: Settings) -> Settings:
    changes: dict[str, Any] = {}
    for key, kind in (("group", str), ("priority", int), ("weight", float)):
        if (value := config.get(f"aios_{key}")) is None:
            continue
        try:
            changes[key] = kind(value)
        except (TypeError, ValueError) as exc:
            allowed = f"a value of type {kind.__name__}"
            raise InvalidRequest(f"aios_{key}: got {value!r}; allowed: {allowed}") from exc
    return replace(defaults, **changes) if changes else defaults


_numbers = itertools.count(1)
_of_thread = threading.local()


def _caller() -> Identity:
    """The asyncio task that runs, else the thread."""
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            return Identity(Kind.TASK, task, task.get_name())
    if not hasattr(_of_thread, "number"):
        _of_thread.number = next(_numbers)
    return Identity(Kind.THREAD, _of_thread.number, threading.current_thread().name)


# --- agents ------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Entry:
    """The agents of one identity: one on each kernel that it calls."""

    agents: dict[int, Agent] = field(default_factory=dict)  # by id of the kernel, which they hold
    num_active: int = 0  # calls under way
    used_at: float = 0.0
    is_over: bool = False  # exits with its last call


class AgentDirectory:
    """Agents by identity: spawned at the first call, gone when their time is over.

    Invariant: an agent with a call under way is never made to exit from here.
    """

    def __init__(
        self,
        *,
        is_live: Callable[[Identity], bool] = lambda _: False,
        idle_s: float = _IDLE_S,
        max_agents: int = _MAX_AGENTS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_live = is_live  # whether somebody will tell its end
        self._idle_s = idle_s
        self._max_agents = max_agents
        self._now = now
        self._entries: OrderedDict[Identity, _Entry] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()  # guards _entries and what is in it

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def use(self, kernel: Kernel, identity: Identity, settings: Settings) -> Iterator[Agent]:
        """The agent for one call, on a thread. It does not exit before the block ends."""
        with self._held(identity) as entry:
            agent = self._known(entry, kernel, identity)
            if agent is None:
                spawned = kernel.spawn(identity.name, **_spawning(settings))
                agent = self._adopt(entry, kernel, spawned)
            yield agent

    @asynccontextmanager
    async def ause(
        self, kernel: Kernel, identity: Identity, settings: Settings
    ) -> AsyncIterator[Agent]:
        """The same on an event loop."""
        with self._held(identity) as entry:
            agent = self._known(entry, kernel, identity)
            if agent is None:
                spawned = await kernel.aspawn(identity.name, **_spawning(settings))
                agent = self._adopt(entry, kernel, spawned)
            yield agent

    def end(self, identity: Identity) -> None:
        """The run or task is over: its agents exit, with their last call if there is one."""
        with self._lock:
            if (entry := self._entries.get(identity)) is None:
                return
            entry.is_over = True
            gone = self._drop(identity, entry)
        exit_soon(gone)

    def check(self) -> None:
        """Raise `AssertionError` unless the invariants hold. For tests."""
        with self._lock:
            for identity, entry in self._entries.items():
                assert entry.num_active >= 0, f"{identity} was released twice"  # noqa: S101
                assert entry.num_active or not entry.is_over, f"{identity} stayed"  # noqa: S101

    @contextmanager
    def _held(self, identity: Identity) -> Iterator[_Entry]:
        entry, gone = self._acquire(identity)
        exit_soon(gone)
        try:
            yield entry
        finally:
            exit_soon(self._release(identity, entry))

    def _acquire(self, identity: Identity) -> tuple[_Entry, list[Agent]]:
        with self._lock:
            entry = self._entries.get(identity)
            if entry is None:
                entry = self._entries[identity] = _Entry()
                if identity.kind is Kind.TASK:
                    identity.key.add_done_callback(lambda _: self.end(identity))  # type: ignore[attr-defined]
            self._entries.move_to_end(identity)
            entry.num_active += 1
            entry.used_at = self._now()
            return entry, self._expired()

    def _release(self, identity: Identity, entry: _Entry) -> list[Agent]:
        with self._lock:
            entry.num_active -= 1
            entry.used_at = self._now()
            return self._drop(identity, entry) if entry.is_over else []

    def _drop(self, identity: Identity, entry: _Entry) -> list[Agent]:
        """Forget an entry without calls. Returns the agents that shall exit."""
        if entry.num_active or self._entries.get(identity) is not entry:
            return []
        del self._entries[identity]
        return list(entry.agents.values())

    def _expired(self) -> list[Agent]:
        """Forget who has been idle for too long, and who is too many."""
        gone: list[Agent] = []
        now = self._now()
        surplus = len(self._entries) - self._max_agents
        for identity, entry in tuple(itertools.islice(self._entries.items(), 8)):
            is_idle = now - entry.used_at > self._idle_s and not self._is_live(identity)
            if surplus > 0 or (is_idle and identity.kind is not Kind.NAMED):
                gone += self._drop(identity, entry)
                surplus -= 1
        return gone

    def _known(self, entry: _Entry, kernel: Kernel, identity: Identity) -> Agent | None:
        agent = entry.agents.get(id(kernel))
        if agent is None or (agent.state is ProcessState.EXITED and identity.kind is not Kind.RUN):
            return None  # whoever killed a run's agent meant the run; others begin anew
        return agent

    def _adopt(self, entry: _Entry, kernel: Kernel, spawned: Agent) -> Agent:
        """Keep a new agent, unless another call was quicker: then that call's agent is the one."""
        with self._lock:
            agent = entry.agents.get(id(kernel))
            if agent is None or agent.state is ProcessState.EXITED:
                entry.agents[id(kernel)] = spawned
                return spawned
        exit_soon([spawned])
        return agent


def _spawning(settings: Settings) -> dict[str, Any]:
    return {
        "group": settings.group,
        "priority": settings.priority,
        "weight": settings.weight,
        "budget": settings.budget,
    }


_exiting: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references


def exit_soon(agents: list[Agent]) -> None:
    """Make agents exit. On an event loop nobody waits for it."""
    if not agents:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _exit(agents)
        return
    task = loop.create_task(_aexit(agents), name="aios-exit")
    _exiting.add(task)
    task.add_done_callback(lambda done: _exited(done, agents))


def _exit(agents: list[Agent]) -> None:
    for agent in agents:
        with suppress(KernelClosed):
            agent.exit()


async def _aexit(agents: list[Agent]) -> None:
    for agent in agents:
        with suppress(KernelClosed):
            await agent.__aexit__(None, None, None)


def _exited(task: asyncio.Task[None], agents: list[Agent]) -> None:
    _exiting.discard(task)
    if task.cancelled():  # the loop is shutting down, and may wait for once
        _exit(agents)


# --- of this process ---------------------------------------------------------------------------


def _end_of(root: Root) -> None:
    directory.end(Identity(Kind.RUN, root.run_id, root.name))


def _is_live(who: Identity) -> bool:
    return isinstance(who.key, UUID) and tracker.is_live(who.key)


tracker: Final[RunTracker] = RunTracker(_end_of)
directory: Final[AgentDirectory] = AgentDirectory(is_live=_is_live)
_tracking: ContextVar[RunTracker | None] = ContextVar("aios_runs", default=tracker)
register_configure_hook(_tracking, inheritable=True)
