"""How much service agents and groups have received.

Service is counted in weighted tokens: prompt tokens + 2 x generated tokens (the
virtual token counter of Sheng et al., OSDI 2024). `virtual_time` divides it by
the weight and never falls behind those who stayed busy: a flow that was idle
starts again where service stands now, so idleness earns no claim on the future.

Both only grow. A call that turns out to have cost less than was charged leaves a
credit, which its flow uses up first.
"""

from __future__ import annotations

from dataclasses import dataclass

from aios_core.messages import Usage

PROMPT_COST = 1.0
OUTPUT_COST = 2.0


@dataclass(slots=True, eq=False)
class FlowShare:
    """The service of one agent or one group. Satisfies `policy.Share`."""

    name: str
    weight: float = 1.0
    service: float = 0.0
    virtual_time: float = 0.0
    num_calls: int = 0  # waiting or running
    num_waiting: int = 0
    floor: float = 0.0  # virtual time of the member that was served last
    credit: float = 0.0
    num_members: int = 0  # of a group: its agents that made calls and live

    def enter(self, floor: float) -> None:
        """One more call. `floor` is where service stands among this flow's siblings."""
        if self.num_calls == 0 and self.virtual_time < floor:
            self.virtual_time = floor
        self.num_calls += 1

    def leave(self) -> None:
        """One call less."""
        self.num_calls -= 1

    def charge(self, cost: float) -> None:
        """Account for service; a negative cost becomes credit."""
        cost -= self.credit
        self.credit = max(0.0, -cost)
        if cost > 0:
            self.service += cost
            self.virtual_time += cost / self.weight


def service_of(usage: Usage) -> float:
    """The service that a call was, once it is known what it took."""
    return PROMPT_COST * usage.input_tokens + OUTPUT_COST * usage.output_tokens
