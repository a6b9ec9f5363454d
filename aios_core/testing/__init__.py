"""Fakes and fixtures for testing agents, cores and kernels: no model, no network, no waiting.

    virtual_time   `run_virtual`: run a coroutine on virtual time
    manual_clock   `ManualClock`: a clock that a test turns by hand
    simulated      `SimulatedCore`: a core that takes time by a cost model, and generates filler
    cooperative    `cooperative_script`: a script for `ScriptedCore` that calls the offered tools
    stub_server    an OpenAI-compatible server that fails on demand
    stub_anthropic a server with Anthropic's Messages API that fails on demand
    core_contract  tests that every core must pass; `core_rig` drives one core
    event_watcher  `EventWatcher`: wait for events of a kernel
    cancellation   `cancel_twice`: cancel a task again during its cleanup
    leftovers      `nothing_left`: find threads, tasks and processes that code leaves behind
    pytest_plugin  fixtures for pytest; the one module here that needs pytest

`cost_model`, `simulated_kv`, `simulated_sequence` and `tokens` are parts of the simulated core,
`stub_answers`, `stub_responses` and `stub_wire` of the stub servers. All of it is tested as
product code: users test their agents with it too. `ScriptedCore` and `ReplayCore` are in
`aios_core.cores`.
"""

from aios_core.testing.cancellation import cancel_twice
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
    "cancel_twice",
    "cooperative_script",
    "nothing_left",
    "run_virtual",
]
