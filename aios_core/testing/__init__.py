"""Fakes for testing agents and kernels: no model, no network, no waiting.

`run_virtual` runs a coroutine on virtual time, `ManualClock` is turned by hand,
`SimulatedCore` generates by a cost model. All of it is product code: users test
their agents with it too.
"""

from aios_core.testing.costs import CoreStats, CostModel
from aios_core.testing.kv import SimulatedKV
from aios_core.testing.manual_clock import ManualClock
from aios_core.testing.simulated import SimulatedCore
from aios_core.testing.virtual import Deadlock, VirtualLoop, run_virtual

__all__ = [
    "CoreStats",
    "CostModel",
    "Deadlock",
    "ManualClock",
    "SimulatedCore",
    "SimulatedKV",
    "VirtualLoop",
    "run_virtual",
]
