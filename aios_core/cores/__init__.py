"""LLM cores: everything that generates, behind the contract of `aios_core.core`.

    ScriptedCore     answers from a script: for tests, and to measure the kernel alone
    RecordingCore    wraps a core and records its requests and answers
    ReplayCore       replays a recording, offline
    OpenAICore       an OpenAI-compatible endpoint: OpenAI, vLLM, Ollama, SGLang, llama.cpp ...
    TransformersCore any causal model that transformers loads, in this process
    CorePool         several cores: which of them serves a call
    StreamingCore    turns an async generator into a core

Importing this package imports no backend's library; the classes that need one
are loaded when they are first named. A further remote API is a file with one more
subclass of `StreamingCore`: its `stream` translates the events, its `open` builds
the client. What such a file needs is here, `CoreKind` and `Range` to declare its
options too; `aios_core.testing.core_contract` tests it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from aios_core.config_decoder import Range
from aios_core.core import Capabilities, Core, CoreLoad, Prepared, Progress
from aios_core.core_kinds import CoreKind
from aios_core.cores.pool import CorePool
from aios_core.cores.replay import RecordingCore, ReplayCore
from aios_core.cores.scripted import ScriptedCore
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

if TYPE_CHECKING:
    from aios_core.cores.openai.core import OpenAICore
    from aios_core.cores.transformers import TransformersCore

__all__ = [
    "Capabilities",
    "Core",
    "CoreKind",
    "CoreLoad",
    "CorePool",
    "Item",
    "LLMGenerate",
    "LiveRun",
    "OpenAICore",
    "Prepared",
    "Progress",
    "Range",
    "RecordingCore",
    "ReplayCore",
    "ScriptedCore",
    "Snapshot",
    "StreamingCore",
    "TransformersCore",
]

_LOADED_WHEN_NAMED = {
    "OpenAICore": "aios_core.cores.openai.core",
    "TransformersCore": "aios_core.cores.transformers",
}


def __getattr__(name: str) -> object:
    if name not in _LOADED_WHEN_NAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOADED_WHEN_NAMED[name]), name)
