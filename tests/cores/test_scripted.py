"""The scripted core: the contract with and without latency, and what can be scripted."""

from __future__ import annotations

from aios_core.core import Core
from aios_core.cores.scripted import ScriptedCore

from .contract import CoreContract

STORY = "Once upon a time there was a kernel that never lost a single call of its agents."


class TestContractAtOnce(CoreContract):
    def make_core(self) -> Core:
        return ScriptedCore(STORY)


class TestContractInTime(CoreContract):
    def make_core(self) -> Core:
        return ScriptedCore(STORY, latency_s=0.001, token_s=0.001, preemptible=True)
