"""What a dispatcher puts up with."""

from __future__ import annotations

from dataclasses import dataclass

from aios_core.scheduler.estimates import EXPECTED_ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the queues, and how failures are met."""

    max_waiting: int = 10_000  # calls without a slot, of all agents
    max_waiting_per_agent: int = 1_000
    max_attempts: int = 4  # of one call, when its cores fail
    retry_patience_s: float = 120.0  # from a call's first failure to its last attempt
    core_patience_s: float = 10.0  # calls wait that long for a core that is down
    default_timeout_s: float | None = None
    expected_answer_tokens: int = EXPECTED_ANSWER_TOKENS  # before there are any to learn from
