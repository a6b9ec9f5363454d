"""State what the measured runs support, in sentences, and whether the machine was busy.

A sentence is a claim only if every round supports it by a margin; otherwise it reports that the
rounds disagree, with the numbers. Pure, except `OtherLoad`, which reads the load of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from langchain_aios.demo.records import Score

MARGIN: Final = 1.1  # a smaller ratio is noise on a shared machine
BUSY_SHARE: Final = 0.15  # of the processor, used by other programs

Round = Mapping[str, Score]  # the scores of one round, by system


def verdict(rounds: Sequence[Round], native: str) -> list[str]:
    """Return a sentence about fairness and one about throughput.

    Args:
        rounds: complete ones only; each has the same systems.
        native: the system that the others are compared with.
    """
    policies = [system for system in rounds[0] if system != native] if rounds else []
    if not policies or native not in rounds[0]:
        return ["No verdict: the runs to compare are not complete."]
    best = "fair" if "fair" in policies else policies[0]
    return [_fairness(rounds, native, best), _throughput(rounds, native, best)]


def _fairness(rounds: Sequence[Round], native: str, policy: str) -> str:
    ours = [scores[policy].slowdown for scores in rounds]
    theirs = [scores[native].slowdown for scores in rounds]
    took = f"the light groups' tasks took {_many(theirs)} as long as alone natively and "
    ratios = [high / low if low else 0.0 for high, low in zip(theirs, ours, strict=True)]
    if all(ratio > MARGIN for ratio in ratios):
        return f"Next to the heavy group, {took}{_many(ours)} under {policy}{_in_each(rounds)}."
    if all(ratio and ratio < 1 / MARGIN for ratio in ratios):
        return f"Not fairer here: {took}{_many(ours)} under {policy}{_in_each(rounds)}."
    return f"No verdict on fairness: {took}{_many(ours)} under {policy}."


def _throughput(rounds: Sequence[Round], native: str, policy: str) -> str:
    ratios = [
        scores[policy].tasks_per_s / scores[native].tasks_per_s
        if scores[native].tasks_per_s
        else 0.0
        for scores in rounds
    ]
    if all(ratio > MARGIN for ratio in ratios):
        return (
            f"The kernel ({policy}) finished {_many(ratios)} the tasks a second{_in_each(rounds)}."
        )
    if all(0 < ratio < 1 / MARGIN for ratio in ratios):
        return f"The kernel ({policy}) was slower: {_many(ratios)} the tasks a second."
    return f"No verdict on throughput: {policy} finished {_many(ratios)} the tasks a second."


def _many(values: Sequence[float]) -> str:
    """One value, or the range that the rounds span: "2.1x", "2.1 to 2.6x"."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return f"{low}x" if low == high else f"{low} to {high}x"


def _in_each(rounds: Sequence[Round]) -> str:
    return f" (in each of {len(rounds)} rounds)" if len(rounds) > 1 else " (one round only)"


# --- the machine ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ticks:
    """Processor time in seconds, of the whole machine and of this process with its children."""

    busy: float
    total: float
    own: float


class OtherLoad:
    """Measures the processor time of other programs from now on. Works on Linux only."""

    def __init__(self) -> None:
        self._before = _ticks()

    def share(self) -> float | None:
        """Return the share of all processors that others used, 0 to 1; None if unknown."""
        before, now = self._before, _ticks()
        if before is None or now is None or now.total <= before.total:
            return None
        others = (now.busy - before.busy) - (now.own - before.own)
        return min(1.0, max(0.0, others / (now.total - before.total)))


def busy_note(share: float | None) -> str:
    """Return a note for the reader if the machine was busy with other things, else ""."""
    if share is None or share < BUSY_SHARE:
        return ""
    return (
        f"Other programs used {share:.0%} of the processor meanwhile: times are longer than on an "
        "idle machine, and small differences mean nothing."
    )


def _ticks() -> _Ticks | None:
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        numbers = [int(word) for word in first.split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    second = os.sysconf("SC_CLK_TCK")
    idle = numbers[3] + numbers[4]  # idle, and waiting for a disk
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return _Ticks((sum(numbers) - idle) / second, sum(numbers) / second, own)
