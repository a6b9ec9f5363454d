"""Call third-party code (cores, answers, KV images), and contain what it raises.

All of these must return at once and never raise. One that raises all the same is
logged: the kernel stands in the middle of work for several agents when it calls them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from aios_core.core import Core
from aios_core.foreign import RAISED, log_raised, pass_on
from aios_core.snapshot import Snapshot

T = TypeVar("T")
log = logging.getLogger(__name__)


def deliver(hand_over: Callable[[T], object], value: T) -> None:
    """Hand a delta or an outcome to a caller, which may not exist any longer."""
    try:
        hand_over(value)
    except RAISED as exc:
        pass_on(exc)
        log_raised(log, exc, "a caller could not be answered")


def preempt(core: Core, run_id: int) -> None:
    """Ask a core to stop a run at its next token."""
    try:
        core.preempt(run_id)
    except RAISED as exc:
        pass_on(exc)
        log_raised(
            log, exc, "core %r could not preempt run %d; the run continues", core.name, run_id
        )


def cancel(core: Core, run_id: int) -> None:
    """Ask a core to drop a run."""
    try:
        core.cancel(run_id)
    except RAISED as exc:
        pass_on(exc)
        log_raised(
            log, exc, "core %r could not cancel run %d; the run keeps its slot", core.name, run_id
        )


def release(snapshot: Snapshot) -> None:
    """Free the KV image of a snapshot, if it has one."""
    try:
        if snapshot.kv is not None:
            snapshot.kv.release()
    except RAISED as exc:
        pass_on(exc)
        log_raised(log, exc, "a KV image could not be freed")
