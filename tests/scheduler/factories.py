"""Valid scheduler objects with only the fields that a test cares about."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import count

from aios_core import Message
from aios_core.core import Core
from aios_core.process import AgentProcess, ProcessTable
from aios_core.scheduler import Policy, Scheduler
from aios_core.scheduler.admission import AdmissionController
from aios_core.scheduler.scheduler import Assignment
from aios_core.scheduler.waiting_calls import Route, Ticket
from aios_core.syscalls import LLMGenerate, Syscall, SyscallState
from tests.puppet import PuppetCore

HELLO = LLMGenerate((Message("user", "hello"),))


def _expect(default: int, *, at_most_unknown: int | None = None) -> int:
    """Estimate an answer as `Estimates` does before any was learned."""
    return default if at_most_unknown is None else min(default, at_most_unknown)


class Machine:
    """A scheduler with cores that count slots, and time that a test sets."""

    def __init__(
        self,
        policy: Policy,
        *,
        slots: int = 1,
        cores: Iterable[PuppetCore] = (),
        admission: AdmissionController | None = None,
    ) -> None:
        self.scheduler = Scheduler(policy, admission)
        self.cores: Route = tuple(cores) or (PuppetCore(slots=slots),)
        self.table = ProcessTable()
        self.now = 0.0
        self.agents: dict[str, AgentProcess] = {}
        self.occupied: dict[int, Ticket] = {}
        self._ids = count(1)

    def agent(self, name: str, *, group: str = "g", weight: float = 1.0) -> AgentProcess:
        if name not in self.agents:
            self.agents[name] = self.table.spawn(name, now=self.now, group=group, weight=weight)
        return self.agents[name]

    def submit(
        self,
        agent: str = "a",
        *,
        priority: int = 0,
        prompt: int = 1,
        output: int = 10,
        expected: int | None = None,
        route: Route = (),
        group: str = "g",
    ) -> Ticket:
        process = self.agent(agent, group=group)
        syscall = Syscall(next(self._ids), process.pid, HELLO, self.now, priority=priority)
        syscall.state_since = self.now
        return self.scheduler.submit(
            syscall,
            process,
            route or self.cores,
            prompt_tokens=prompt,
            max_tokens=output,
            now=self.now,
            expect_answer=None if expected is None else partial(_expect, expected),
        )

    def pick(self, candidates: Route) -> Core | None:
        """As a pool: the first core with a free slot."""
        for core in candidates:
            load = core.load()
            if self.taken(core) < load.slots and load.available_in_s <= 0:
                return core
        return None

    def used(self, core: Core) -> None:
        """Return no quantum."""

    def taken(self, core: Core) -> int:
        return sum(ticket.core is core for ticket in self.occupied.values())

    def next(self) -> Ticket | None:
        """Start the next call, if there is one to start."""
        decision = self.decide()
        return decision.ticket if decision else None

    def decide(self) -> Assignment | None:
        decision = self.scheduler.pick_next(self, self.now)
        if decision:
            self.occupied[decision.ticket.syscall.id] = decision.ticket
            core = decision.core
            assert isinstance(core, PuppetCore)
            core.runs[decision.ticket.syscall.id] = None  # type: ignore[assignment]
        return decision

    def progress(self, ticket: Ticket, num_tokens: int) -> bool:
        ticket.syscall.num_tokens += num_tokens
        return self.scheduler.progressed(ticket, num_tokens, self.now)

    def preempt(self, ticket: Ticket, route: Route = ()) -> None:
        self._free(ticket)
        self.scheduler.preempted(ticket, route or self.cores, self.now)

    def retry(self, ticket: Ticket) -> None:
        self._free(ticket)
        self.scheduler.retry(ticket, self.cores, self.now)

    def finish(
        self, ticket: Ticket, outcome: SyscallState = SyscallState.DONE, cost: float | None = None
    ) -> None:
        if ticket.syscall.id in self.occupied:
            self._free(ticket)
        self.scheduler.finish(ticket, outcome, self.now, cost)

    def _free(self, ticket: Ticket) -> None:
        del self.occupied[ticket.syscall.id]
        for core in self.cores:
            assert isinstance(core, PuppetCore)
            core.runs.pop(ticket.syscall.id, None)

    def serve(self, *, tokens: int = 10, quantum: int | None = None) -> list[str]:
        """Run everything, one slot at a time; the agents in the order of their turns."""
        turns: list[str] = []
        left: dict[int, int] = {}
        while ticket := self.next():
            turns.append(ticket.agent.name)
            todo = left.setdefault(ticket.syscall.id, tokens)
            step = min(todo, quantum or todo)
            while True:
                left[ticket.syscall.id] -= step
                yields = self.progress(ticket, step)
                self.now += step
                if left[ticket.syscall.id] <= 0:
                    self.finish(ticket)
                    break
                if yields:
                    self.preempt(ticket)
                    break
        return turns
