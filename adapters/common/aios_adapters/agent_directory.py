"""Map callers to agents: spawned at the first call, exited when the caller ends.

The kind of a caller decides the lifetime of its agent (table in `aios_adapters.callers`).
Each adapter has its own directory; named agents are in one directory that all adapters share.
At most `max_agents` are kept; the least recently used exit first. One lock guards the
entries; it is not held during a syscall. `end` never waits for it, since finalizers call it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from aios_adapters.callers import AgentSettings, Caller, CallerKind
from aios_adapters.finalizer_lock import FinalizerLock
from aios_adapters.shared_spawn import Loop, Turn
from aios_core.kernel import Agent, Kernel
from aios_core.process import ProcessState
from aios_core.shielding import finish_shielded

log = logging.getLogger(__name__)

_IDLE_S: Final = 600.0
_MAX_AGENTS: Final = 10_000

# Killing an agent of these kinds ends the work in hand: its next call must find it exited. A
# conversation, a task or a name gets a new agent instead.
_STAYS_DEAD: Final = frozenset({CallerKind.RUN, CallerKind.OBJECT})
_NEVER_IDLE: Final = frozenset({CallerKind.NAMED})
_DEFAULTS: Final = AgentSettings()


@dataclass(slots=True, eq=False)
class _Entry:
    """The agents of one caller: one on each kernel that the caller uses."""

    # By the id of the kernel; an agent holds its kernel, so the id cannot be reused.
    agents: dict[int, Agent] = field(default_factory=dict)
    num_active: int = 0  # calls in flight
    used_at: float = 0.0
    is_over: bool = False  # exits with its last call
    # By the id of the kernel: what its agent was spawned with. Removed after one warning.
    settings: dict[int, AgentSettings] = field(default_factory=dict)
    turns: dict[int, Turn] = field(default_factory=dict)  # by the id of the kernel: running spawns


class AgentDirectory:
    """The agents of all callers of one adapter.

    Invariant: an agent with a call in flight is never made to exit from here.

    Args:
        is_live: returns whether the end of a caller will be reported, so that its agent must not
            exit for being idle.
        idle_s: seconds without a call after which an agent exits, unless it is named.
        max_agents: how many callers are kept.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        *,
        is_live: Callable[[Caller], bool] = lambda _: False,
        idle_s: float = _IDLE_S,
        max_agents: int = _MAX_AGENTS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_live = is_live
        self._idle_s = idle_s
        self._max_agents = max_agents
        self._now = now
        self._entries: OrderedDict[Caller, _Entry] = OrderedDict()  # least recently used first
        self._lock = FinalizerLock()  # guards _entries and what is in it

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def callers(self) -> tuple[Caller, ...]:
        """The callers that have an agent here, the least recently used first."""
        with self._lock:
            return tuple(self._entries)

    def knows(self, caller: Caller) -> bool:
        """Return whether a caller has made a call that is remembered."""
        return _named.knows(caller) if self._is_elsewhere(caller) else caller in self._entries

    @contextmanager
    def use(self, kernel: Kernel, caller: Caller, settings: AgentSettings) -> Iterator[Agent]:
        """Provide the caller's agent for one call on a thread, spawning it if necessary.

        The agent does not exit before the block ends.
        """
        if self._is_elsewhere(caller):
            with _named.use(kernel, caller, settings) as named:
                yield named
            return
        with self._held(caller) as entry:
            while (agent := _known(entry, kernel, caller)) is None:
                with self._turn(entry, kernel, caller, None) as others:
                    if others is not None:
                        others.wait()
                        continue
                    spawned = kernel.spawn(caller.name, **_spawning(settings))
                    self._adopt(entry, kernel, spawned, settings)
            self._compare(entry, kernel, caller, settings)
            yield agent

    def ause(
        self, kernel: Kernel, caller: Caller, settings: AgentSettings
    ) -> AbstractAsyncContextManager[Agent]:
        """Provide the caller's agent for one call on an event loop (async form of `use`).

        Leaving the block does not await anything.
        """
        return _AsyncUse(_named if self._is_elsewhere(caller) else self, kernel, caller, settings)

    async def _enter(
        self, stack: ExitStack, kernel: Kernel, caller: Caller, settings: AgentSettings
    ) -> Agent:
        """Find or spawn the agent; it does not exit before the stack unwinds."""
        entry = stack.enter_context(self._held(caller))
        loop = asyncio.get_running_loop()
        while (agent := _known(entry, kernel, caller)) is None:
            with self._turn(entry, kernel, caller, loop) as others:
                if others is not None:
                    await others.await_end()
                    continue
                await self._spawn(entry, kernel, caller, settings)
        self._compare(entry, kernel, caller, settings)
        return agent

    async def _spawn(
        self, entry: _Entry, kernel: Kernel, caller: Caller, settings: AgentSettings
    ) -> None:
        """Spawn a caller's agent. If this task is cancelled, waiting calls still get the agent."""
        spawning = asyncio.ensure_future(kernel.aspawn(caller.name, **_spawning(settings)))
        try:
            self._adopt(entry, kernel, await finish_shielded(spawning), settings)
        except asyncio.CancelledError:
            # The kernel completed the spawn anyway. A second spawn would get another identity
            # (`name-2`), which does not own the caller's memory.
            if not spawning.cancelled() and spawning.exception() is None:
                self._adopt(entry, kernel, spawning.result(), settings)
            raise

    def end(self, caller: Caller) -> None:
        """Let the agents of a run or task exit, after their last call if one is in flight.

        Never waits: a finalizer may call it. If another thread is changing the directory, that
        thread removes the entry.
        """
        self._lock.run_soon(partial(self._end, caller))

    def _end(self, caller: Caller) -> Callable[[], object] | None:
        if (entry := self._entries.get(caller)) is None:
            return None
        entry.is_over = True
        return partial(_exit, self._drop(caller, entry))

    def check(self) -> None:
        """Raise `AssertionError` unless the invariants hold. For tests."""
        with self._lock:
            for caller, entry in self._entries.items():
                assert entry.num_active >= 0, f"{caller} was released twice"  # noqa: S101
                assert entry.num_active or not entry.is_over, f"{caller} stayed"  # noqa: S101

    def _is_elsewhere(self, caller: Caller) -> bool:
        """Return whether a caller is named: its agent is in the directory that adapters share."""
        return caller.kind is CallerKind.NAMED and self is not _named

    @contextmanager
    def _held(self, caller: Caller) -> Iterator[_Entry]:
        entry, expired = self._acquire(caller)
        try:
            _exit(expired)
            yield entry
        finally:
            _exit(self._release(caller, entry))

    def _acquire(self, caller: Caller) -> tuple[_Entry, list[Agent]]:
        with self._lock:
            entry = self._entries.get(caller)
            if entry is None:
                entry = self._entries[caller] = _Entry()
                self._watch_end(caller, entry)
            entry.num_active += 1
            self._entries.move_to_end(caller)
            entry.used_at = self._now()
            return entry, self._expired()

    def _watch_end(self, caller: Caller, entry: _Entry) -> None:
        """End the entry when its task is done or its object is collected."""
        if caller.kind is CallerKind.TASK:
            task = cast("asyncio.Task[Any]", caller.key)
            if task.done():  # another task reads its stream; its own loop may be closed
                entry.is_over = True
            else:
                task.add_done_callback(lambda _: self.end(caller))
        elif caller.anchor is not None and (owner := caller.anchor()) is not None:
            weakref.finalize(
                owner, _collect, weakref.ref(self), caller, entry.agents
            ).atexit = False

    def _release(self, caller: Caller, entry: _Entry) -> list[Agent]:
        with self._lock:
            entry.num_active -= 1
            entry.used_at = self._now()
            return self._drop(caller, entry) if entry.is_over else []

    def _drop(self, caller: Caller, entry: _Entry) -> list[Agent]:
        """Remove an entry that has no call in flight. Returns the agents that must exit."""
        if entry.num_active or self._entries.get(caller) is not entry:
            return []
        self._entries.pop(caller, None)
        return list(entry.agents.values())

    def _expired(self) -> list[Agent]:
        """Remove idle and surplus entries. Returns the agents that must exit."""
        expired: list[Agent] = []
        now = self._now()
        surplus = len(self._entries) - self._max_agents
        # Eight at a time: the cost of a call stays constant however many entries there are.
        for caller, entry in tuple(itertools.islice(self._entries.items(), 8)):
            is_idle = now - entry.used_at > self._idle_s and not self._is_live(caller)
            if surplus > 0 or (is_idle and caller.kind not in _NEVER_IDLE):
                expired += self._drop(caller, entry)
                surplus -= 1
        return expired

    @contextmanager
    def _turn(
        self, entry: _Entry, kernel: Kernel, caller: Caller, loop: Loop | None
    ) -> Iterator[Turn | None]:
        """Provide the spawn of another call to wait for; None if this call has to spawn."""
        key = id(kernel)
        with self._lock:
            others = entry.turns.get(key)
            if _known(entry, kernel, caller) is not None:
                others = Turn(None)  # another call has spawned it meanwhile: nothing to wait for
                others.end()
            elif others is None or not others.lets_wait(loop):
                others, mine = None, Turn(loop)
                entry.turns[key] = mine
        if others is not None:
            yield others
            return
        try:
            yield None
        finally:
            with self._lock:
                if entry.turns.get(key) is mine:
                    del entry.turns[key]
            mine.end()

    def _adopt(
        self, entry: _Entry, kernel: Kernel, spawned: Agent, settings: AgentSettings
    ) -> None:
        """Keep a new agent; if another call has spawned one meanwhile, let the new one exit."""
        with self._lock:
            agent = entry.agents.get(id(kernel))
            if agent is None or agent.state is ProcessState.EXITED:
                entry.agents[id(kernel)] = spawned
                entry.settings[id(kernel)] = settings
                return
        _exit([spawned])

    def _compare(
        self, entry: _Entry, kernel: Kernel, caller: Caller, settings: AgentSettings
    ) -> None:
        """Log once that a named agent keeps the settings of its first call."""
        if caller.kind is not CallerKind.NAMED:
            return
        with self._lock:
            was = entry.settings.get(id(kernel))
            ignored = _ignored_settings(settings, was) if was else []
            if ignored:
                del entry.settings[id(kernel)]
        if ignored:
            log.warning(
                "agent %r exists already: its %s stays as its first call set it; set it in that "
                "call, or spawn the agent and pass it",
                caller.name,
                " and ".join(ignored),
            )


class _AsyncUse:
    """The block of `AgentDirectory.ause`.

    Not a generator: a loop that stops closes generators in any order, also while they are in use.
    """

    def __init__(
        self, directory: AgentDirectory, kernel: Kernel, caller: Caller, settings: AgentSettings
    ) -> None:
        self._directory = directory
        self._asked = (kernel, caller, settings)
        self._stack = ExitStack()

    async def __aenter__(self) -> Agent:
        with ExitStack() as stack:
            agent = await self._directory._enter(stack, *self._asked)  # noqa: SLF001 - ours
            self._stack = stack.pop_all()
        return agent

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()


def _known(entry: _Entry, kernel: Kernel, caller: Caller) -> Agent | None:
    agent = entry.agents.get(id(kernel))
    if agent is None or (agent.state is ProcessState.EXITED and caller.kind not in _STAYS_DEAD):
        return None
    return agent


def _ignored_settings(wanted: AgentSettings, was: AgentSettings) -> list[str]:
    """Return the names of wanted settings that differ from those of the spawned agent."""
    return [
        name
        for name in ("priority", "weight", "budget")
        if getattr(wanted, name) not in (getattr(_DEFAULTS, name), getattr(was, name))
    ]


def _spawning(settings: AgentSettings) -> dict[str, Any]:
    return {
        "group": settings.group,
        "priority": settings.priority,
        "weight": settings.weight,
        "budget": settings.budget,
    }


def _exit(agents: list[Agent]) -> None:
    for agent in agents:
        agent.request_exit()


def _collect(
    reference: weakref.ref[AgentDirectory], caller: Caller, agents: dict[int, Agent]
) -> None:
    """Let the agents of a collected object exit. Runs on any thread, so it never waits."""
    _exit(list(agents.values()))
    if (directory := reference()) is not None:
        directory.end(caller)


_named: Final = AgentDirectory()
