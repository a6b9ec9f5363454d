"""Fakes for testing agents and kernels: no model, no network, no waiting.

`run_virtual` runs a coroutine on virtual time, `ManualClock` is turned by hand,
`SimulatedCore` generates by a cost model, `ScriptedCore(obliging)` does what it is asked to,
`Watch` waits for events, `nothing_left` holds code to cleaning up.
All of it is product code: users test their agents with it too. For pytest see
`aios_core.testing.plugin`, the one module here that needs pytest.
"""

from aios_core.testing.costs import CoreStats, CostModel
from aios_core.testing.kv import SimulatedKV
from aios_core.testing.leftovers import Leftovers, nothing_left
from aios_core.testing.manual_clock import ManualClock
from aios_core.testing.obliging import obliging
from aios_core.testing.simulated import SimulatedCore
from aios_core.testing.virtual import Deadlock, VirtualLoop, run_virtual
from aios_core.testing.watch import Watch

__all__ = [
    "CoreStats",
    "CostModel",
    "Deadlock",
    "Leftovers",
    "ManualClock",
    "SimulatedCore",
    "SimulatedKV",
    "VirtualLoop",
    "Watch",
    "nothing_left",
    "obliging",
    "run_virtual",
]
