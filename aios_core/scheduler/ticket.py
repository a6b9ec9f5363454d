"""The entry of a call in the scheduler: where it may run, and what holds it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from aios_core.core import Core
from aios_core.queueing.shares import FlowShare
from aios_core.syscalls import LLMGenerate, Syscall

Route = tuple[Core, ...]  # the cores that can serve a call


def served_model(request: LLMGenerate, route: Route) -> str:
    """Name the model that serves a request: another than it asks for if that has no core up."""
    served = route[0].models
    return request.model if request.model is not None and request.model in served else served[0]


class Hold(StrEnum):
    """Why a waiting call is not to be served, whatever its rank."""

    FROZEN = "its agent is frozen"
    MOVING = "its KV image is being moved"
    BACKOFF = "it pauses before its next attempt"
    BUDGET = "what is left of its budget is reserved for others"


@dataclass(slots=True, eq=False)
class Ticket:
    """One call in the scheduler's books. Satisfies `policy.Waiting`."""

    syscall: Syscall
    agent: FlowShare
    group: FlowShare
    route: Route
    prompt_tokens: int
    max_tokens: int
    expect_answer: Callable[[], int] | None = None  # estimates the answer's tokens
    seq: int = -1
    queued_at: float = 0.0
    quantum_used: int = 0
    charged: float = 0.0  # service already charged for this call
    core: Core | None = None  # where it runs
    home: Core | None = None  # where its context counts as active
    holds: set[Hold] = field(default_factory=set)  # it is served only while there are none
    is_yielding: bool = False  # asked to give up its slot
    _expected: int | None = None

    @property
    def priority(self) -> int:
        return self.syscall.priority

    @property
    def deadline_at(self) -> float | None:
        return self.syscall.deadline_at

    @property
    def model(self) -> str | None:
        return served_model(self.syscall.request, self.route)

    @property
    def expected_answer_tokens(self) -> int:
        # Estimated when a policy first asks: most never do, and what is expected changes.
        if self._expected is None:
            expected = self.max_tokens if self.expect_answer is None else self.expect_answer()
            self._expected = min(self.max_tokens, expected)
        return self._expected

    @property
    def is_held(self) -> bool:
        return bool(self.holds)
