"""The kernel's view of an agent: the process table.

An agent is the schedulable unit. Its process has a parent, a privilege group, a
priority, a weight and a budget; children inherit budget, priority and
cancellation. Pure bookkeeping, touched only by the kernel's loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any

from aios_core.accounting import Accounting, BudgetStatus, GroupStatus
from aios_core.budget import Budget, BudgetAccount
from aios_core.errors import InvalidRequest, KernelBug, NoSuchObject, RunawayStopped
from aios_core.identity import Identities
from aios_core.messages import require_integer, require_number
from aios_core.redaction import shown_repr
from aios_core.syscalls import Request
from aios_core.untrusted.arguments import exact_number, is_a, require_text

DEFAULT_GROUP = "default"


class ProcessState(StrEnum):
    """The state of an agent's process."""

    ACTIVE = "active"
    FROZEN = "frozen"  # its calls are held
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class RunawayGuard:
    """Limits that stop a runaway agent. None: no limit."""

    max_repeats: int | None = 50  # the same request again and again
    max_calls: int | None = 10_000  # of one agent
    max_depth: int | None = 16  # of a family
    max_agents: int | None = 100_000  # alive at once


@dataclass(slots=True, eq=False)
class Group:
    """A privilege group; it shares a budget and, under `fair`, a part of every core."""

    name: str
    weight: float = 1.0
    budget: BudgetAccount = field(default_factory=lambda: BudgetAccount("group"))
    exited: Accounting = field(default_factory=Accounting)  # of exited agents


@dataclass(frozen=True, slots=True)
class WallDeadline:
    """The instant when an agent's wall time ends, and the owner of the budget that sets it."""

    at: float
    owner: str
    limit_s: float

    @classmethod
    def tightest(
        cls, now: float, accounts: Iterable[BudgetAccount], inherited: WallDeadline | None
    ) -> WallDeadline | None:
        """The earliest of what the accounts allow from `now` on, and of an inherited limit."""
        walls = [
            cls(now + account.limits.wall_s, account.owner, account.limits.wall_s)
            for account in accounts
            if account.limits.wall_s is not None
        ]
        if inherited is not None:
            walls.append(inherited)
        return min(walls, key=lambda wall: wall.at, default=None)


@dataclass(slots=True, eq=False)
class AgentProcess:
    """One agent, as the kernel sees it."""

    pid: int
    name: str
    group: Group
    parent: AgentProcess | None
    priority: int  # smaller is more urgent
    weight: float  # share of its group's service under `fair`
    budget: BudgetAccount
    spawned_at: float
    identity: str  # the durable owner of its memory and files: see `aios_core.identity`
    wall: WallDeadline | None = None  # the tightest of its own, its group's and its parent's
    state: ProcessState = ProcessState.ACTIVE
    accounting: Accounting = field(default_factory=Accounting)
    children: dict[int, AgentProcess] = field(default_factory=dict)
    exited: Accounting = field(default_factory=Accounting)  # of descendants that are not alive
    live_calls: set[int] = field(default_factory=set)  # ids of syscalls without an answer yet
    last_request: Request[Any] | None = None
    num_repeats: int = 0
    labels: set[str] = field(default_factory=set)  # where what it has read comes from; only grows
    acts_for: AgentProcess | None = None  # marked by what this one reads

    def __repr__(self) -> str:
        return f"<AgentProcess {self.pid} {self.name!r} of {self.group.name!r}: {self.state}>"

    @property
    def depth(self) -> int:
        """1 for an agent without a parent."""
        return 1 + (self.parent.depth if self.parent else 0)

    @property
    def ends_at(self) -> float | None:
        """When the wall time of the family runs out; None if it never does."""
        return self.wall.at if self.wall else None

    def take_labels(self, labels: AbstractSet[str]) -> None:
        """Add labels to the agent and all its parents, as it has read data that carries them.

        Its parents are marked too, since it hands its results up through the program, which
        the kernel does not see. The set is replaced, never changed: other threads may read it.
        """
        reader: AgentProcess | None = self
        while reader is not None:
            if not labels <= reader.labels:
                reader.labels = reader.labels | labels
            if reader.acts_for is not None:
                reader.acts_for.take_labels(labels)
            reader = reader.parent

    def acting_for(self, other: AgentProcess) -> AgentProcess:
        """Return a stand-in for requests of this agent that another has made through it.

        What it writes carries the labels of both. What it reads marks the other, and not this one,
        which would hand it on to all that use it.
        """
        return replace(self, acts_for=other, labels=self.labels | other.labels)

    def accounting_with_descendants(self) -> Accounting:
        """Return the usage of this agent and all its descendants, exited ones included."""
        below = (child.accounting_with_descendants() for child in tuple(self.children.values()))
        return Accounting.sum_of([self.accounting, self.exited, *below])

    def family(self) -> Iterator[AgentProcess]:
        """This agent and all below it, children before their parents."""
        for child in tuple(self.children.values()):
            yield from child.family()
        yield self


class ProcessTable:
    """All agents that are alive, and the groups that they belong to."""

    def __init__(self, guard: RunawayGuard | None = None) -> None:
        self.guard = guard or RunawayGuard()
        self._processes: dict[int, AgentProcess] = {}
        self._groups: dict[str, Group] = {}
        self._identities = Identities()
        self._pids = count(1)

    def __iter__(self) -> Iterator[AgentProcess]:
        return iter(tuple(self._processes.values()))

    def __len__(self) -> int:
        return len(self._processes)

    def add_group(self, name: str, *, weight: float = 1.0, budget: Budget | None = None) -> Group:
        """Define a group, before or instead of its implicit definition by `spawn`."""
        _require_weight(weight)
        self._groups[name] = Group(name, weight, BudgetAccount(f"group {name!r}", budget))
        return self._groups[name]

    def group(self, name: str) -> Group:
        """The group of that name; made with the default weight if it is new."""
        return self._groups.get(name) or self.add_group(name)

    def spawn(
        self,
        name: str,
        *,
        now: float,
        group: str | None = None,
        parent: int | None = None,
        priority: int | None = None,
        weight: float = 1.0,
        budget: Budget | None = None,
        identity: str | None = None,
    ) -> AgentProcess:
        """Add an agent. Group, priority and budget come from the parent if there is one.

        So do labels, because a parent may pass on what it has read. Durable data
        of the agent belongs to its identity, see `aios_core.identity`.

        Raises:
            NoSuchObject: no such parent.
            RunawayStopped: the family is too deep, or there are too many agents.
            InvalidRequest: a weight that is not positive, an empty name.
        """
        _require_settings(
            name, group=group, parent=parent, priority=priority, weight=weight, budget=budget
        )
        spawner = self.get(parent) if parent is not None else None
        self._require_agent_slot(name, spawner)
        belongs_to = (
            self.group(group) if group else spawner.group if spawner else self.group(DEFAULT_GROUP)
        )
        above = (spawner.budget, belongs_to.budget) if spawner else (belongs_to.budget,)
        account = BudgetAccount(f"agent {name!r}", budget, *above)
        process = AgentProcess(
            pid=next(self._pids),
            name=name,
            group=belongs_to,
            parent=spawner,
            priority=priority if priority is not None else spawner.priority if spawner else 0,
            weight=weight,
            budget=account,
            spawned_at=now,
            identity=self._identities.claim(
                name,
                belongs_to.name,
                spawner.identity if spawner else None,
                wanted=identity,
            ),
            wall=WallDeadline.tightest(
                now, (account, belongs_to.budget), spawner.wall if spawner else None
            ),
            labels=set(spawner.labels) if spawner else set(),
        )
        self._processes[process.pid] = process
        if spawner:
            spawner.children[process.pid] = process
        return process

    def get(self, pid: int) -> AgentProcess:
        """The agent of that pid. Raises `NoSuchObject` if it exited or never was."""
        if not is_a(pid, int) or is_a(pid, bool):
            raise InvalidRequest(f"pid: got {shown_repr(pid)}; allowed: a whole number (agent.pid)")
        pid = int(exact_number(pid))
        try:
            return self._processes[pid]
        except KeyError:
            raise NoSuchObject("agent", pid, self._processes if len(self) < 50 else ()) from None

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups that were defined, or that agents were spawned in."""
        return tuple(self._groups)

    def is_alive(self, identity: str) -> bool:
        """Return whether an agent of that identity has not exited."""
        return self._identities.is_taken(identity)

    def mark(self, identity: str, labels: frozenset[str]) -> None:
        """Add labels to the live agent of an identity, which has read data that carries them."""
        for process in self:
            if process.identity == identity:
                process.take_labels(labels)

    def group_statuses(self) -> list[GroupStatus]:
        """Return every group as it is now, by name."""
        return [self._status_of(self._groups[name]) for name in sorted(self._groups)]

    def _status_of(self, group: Group) -> GroupStatus:
        members = [process for process in self if process.group is group]
        used = Accounting.sum_of([group.exited, *(member.accounting for member in members)])
        budget = BudgetStatus.of(group.budget)
        return GroupStatus(group.name, group.weight, len(members), budget, used)

    def remove(self, process: AgentProcess) -> None:
        """Take an agent out once it is dead and has neither children nor calls."""
        if process.children or process.live_calls:
            raise KernelBug(f"{process!r} exits with children or calls left")
        process.state = ProcessState.EXITED
        self._processes.pop(process.pid, None)
        self._identities.release(process.identity)
        process.group.exited.add(process.accounting)
        if process.parent:
            process.parent.exited.add(process.accounting_with_descendants())
            process.parent.children.pop(process.pid, None)

    def guard_call(self, process: AgentProcess, request: Request[Any]) -> None:
        """Count a call of an agent. Raises `RunawayStopped` if it looks out of control."""
        guard, books = self.guard, process.accounting
        if guard.max_calls is not None and books.num_calls >= guard.max_calls:
            raise RunawayStopped(
                f"agent {process.name!r} made {books.num_calls} calls; "
                f"guard.max_calls allows {guard.max_calls}"
            )
        repeats = process.num_repeats + 1 if request == process.last_request else 1
        if guard.max_repeats is not None and repeats > guard.max_repeats:
            raise RunawayStopped(
                f"agent {process.name!r} made the same call {repeats} times in a row; "
                f"guard.max_repeats allows {guard.max_repeats}"
            )
        process.last_request, process.num_repeats = request, repeats
        books.num_calls += 1

    def check(self) -> None:
        """Raise `KernelBug` unless the tree and the books are consistent."""
        for process in self:
            process.budget.check()
            if process.state is ProcessState.EXITED:
                raise KernelBug(f"{process!r} is dead and still in the table")
            if process.parent and process.parent.children.get(process.pid) is not process:
                raise KernelBug(f"{process!r} is unknown to its parent")

    def _require_agent_slot(self, name: str, parent: AgentProcess | None) -> None:
        depth = parent.depth + 1 if parent else 1
        if self.guard.max_depth is not None and depth > self.guard.max_depth:
            raise RunawayStopped(
                f"agent {name!r} would be {depth} levels deep; "
                f"guard.max_depth allows {self.guard.max_depth}"
            )
        if self.guard.max_agents is not None and len(self) >= self.guard.max_agents:
            raise RunawayStopped(
                f"{len(self)} agents are alive; guard.max_agents allows {self.guard.max_agents}"
            )


def _require_settings(
    name: object, *, group: object, parent: object, priority: object, weight: float, budget: object
) -> None:
    """Check what an agent is spawned with. Raises `InvalidRequest`."""
    _require_weight(weight)
    require_integer("priority", priority)
    if not require_text("name", name):
        raise InvalidRequest("name: got ''; allowed: a text, not empty")
    if group is not None:
        require_text("group", group)
    if budget is not None and not isinstance(budget, Budget):
        raise InvalidRequest(f"budget: got {shown_repr(budget)}; allowed: a Budget, or None")
    if parent is not None and (not isinstance(parent, int) or isinstance(parent, bool)):
        raise InvalidRequest(
            f"parent: got {shown_repr(parent)}; allowed: a pid (agent.pid), or None"
        )


def _require_weight(weight: float) -> None:
    require_number("weight", weight)
    if weight is None or not weight > 0:
        raise InvalidRequest(f"weight: got {shown_repr(weight)}; allowed: above 0")
