"""Decide which LLM call runs next on which core, and carry out these decisions.

    scheduler       decide: the next call, its core, who is preempted (pure)
    waiting_calls   the calls without a slot, by the cores that can serve them
    selection       which waiting call of a route goes to which of its cores (pure)
    admission       which agents' contexts fit a core's KV memory (pure)
    context_sizes   how much memory a context needs (pure)
    context_books   feed both with what happens to calls
    memory_share    how much of a core's memory active agents may have; `prefill_rate` measures
                    for how long an idle one may keep it, `tool_gaps` how long it is away
    admission_waits the bound on how long a call waits for memory
    dispatcher      act: accept, prepare, start, cancel and drain calls
    reports         handle what cores report, and answer calls
    call            one call with everything that it holds
    spending        reserve, settle and judge what calls cost
    allowance       what one answer may have, and what of a reported usage is believed
    budget_queue    calls that wait until others have settled
    recovery        restart cores, retry calls; `outages` moves calls off dead cores
    overload        refuse calls when a queue is full
    deadlines       the timers of calls; `holds` keeps frozen agents' calls back
    call_events     emit the events of calls
    dispatch_state  the state that the parts of one dispatcher share
    protocols       contracts of the components that the dispatcher uses

The policies are in `aios_core.queueing`.
"""

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
    WaitingCall,
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
    "WaitingCall",
]
