"""LLM cores: implementations of the contract in `aios_core.core`, and the pool that holds them.

    endpoint      `EndpointCore`: what cores share that call an endpoint over HTTP
    openai        `OpenAICore`: an OpenAI-compatible endpoint (OpenAI, vLLM, Ollama, llama.cpp ...)
    vllm          `VLLMCore`: a vLLM server that the kernel runs as its child
    anthropic     `AnthropicCore`: Claude, over Anthropic's Messages API
    transformers  `TransformersCore`: a causal model in this process
    embedding     embedders, which turn texts into vectors
    scripted      `ScriptedCore`: answer from a script, for tests
    replay        `RecordingCore` and `ReplayCore`: record a core, and replay it offline
    external      slots for calls that callers make at their own provider
    streaming     `StreamingCore`: the base class for cores that stream from an async generator
    pool          `CorePool`: all cores of a kernel, and which of them should serve a call
    factory       build the cores of a configuration
    deltas        join and split answers; `delta_merging` and `answer_format` belong to it
    hermes        parse tool calls in a model's text

Importing this package imports no backend library; a class that needs one is loaded when
it is first used. A core for a further remote API is a subclass of `StreamingCore`: its
`stream` translates the events, its `connect` builds the client. This package exports
everything that such a subclass needs, including `CoreKind` and `Range` to declare its
options; `aios_core.testing.core_contract` tests it.
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
    from aios_core.cores.anthropic.core import AnthropicCore
    from aios_core.cores.openai.core import OpenAICore
    from aios_core.cores.transformers import TransformersCore
    from aios_core.cores.vllm.core import VLLMCore

__all__ = [
    "AnthropicCore",
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
    "VLLMCore",
]

_LOADED_WHEN_NAMED = {
    "AnthropicCore": "aios_core.cores.anthropic.core",
    "OpenAICore": "aios_core.cores.openai.core",
    "TransformersCore": "aios_core.cores.transformers",
    "VLLMCore": "aios_core.cores.vllm.core",
}


if not TYPE_CHECKING:  # or type checkers would accept any name

    def __getattr__(name: str) -> object:
        """Import a core class that needs a backend library when it is first used."""
        if name not in _LOADED_WHEN_NAMED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LOADED_WHEN_NAMED[name]), name)
