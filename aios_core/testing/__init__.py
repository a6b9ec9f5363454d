"""Fakes for testing agents and kernels: no model, no network, no waiting.

`run_virtual` runs a coroutine on virtual time, `ManualClock` is turned by hand,
`SimulatedCore` generates by a cost model, `ScriptedCore(cooperative_script)` obeys requests,
`EventWatcher` waits for events, `nothing_left` holds code to cleaning up.
All of it is product code: users test their agents with it too. For pytest see
`aios_core.testing.pytest_plugin`, the one module here that needs pytest.
"""

from aios_core.testing.cooperative import cooperative_script
from aios_core.testing.cost_model import CoreStats, CostModel
from aios_core.testing.event_watcher import EventWatcher
from aios_core.testing.leftovers import Leftovers, nothing_left
from aios_core.testing.manual_clock import ManualClock
from aios_core.testing.simulated import SimulatedCore
from aios_core.testing.simulated_kv import SimulatedKV
from aios_core.testing.virtual_time import Deadlock, VirtualLoop, run_virtual

__all__ = [
    "CoreStats",
    "CostModel",
    "Deadlock",
    "EventWatcher",
    "Leftovers",
    "ManualClock",
    "SimulatedCore",
    "SimulatedKV",
    "VirtualLoop",
    "cooperative_script",
    "nothing_left",
    "run_virtual",
]
