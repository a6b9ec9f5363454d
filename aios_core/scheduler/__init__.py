"""Scheduling: policies decide, the scheduler keeps order, the dispatcher acts."""

from aios_core.config_decoder import Range
from aios_core.queueing.policy import (
    FIFO,
    LAS,
    POLICIES,
    Auto,
    Fair,
    Policy,
    Priority,
    QueueLoad,
    Rank,
    RoundRobin,
    Waiting,
)
from aios_core.scheduler.dispatcher import Dispatcher
from aios_core.scheduler.scheduler import Scheduler

__all__ = [
    "FIFO",
    "LAS",
    "POLICIES",
    "Auto",
    "Dispatcher",
    "Fair",
    "Policy",
    "Priority",
    "QueueLoad",
    "Range",
    "Rank",
    "RoundRobin",
    "Scheduler",
    "Waiting",
]
