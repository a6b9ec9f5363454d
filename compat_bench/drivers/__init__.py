"""Drivers: run the tasks with the agents of one framework each.

    base        the contract of a driver
    langchain   LangChain and LangGraph
    autogen     AutoGen 0.4 and later
    llamaindex  LlamaIndex
    react       the ReAct text format, for frameworks without an agent for it

A driver is imported when it is asked for, since frameworks are slow to import. Open Interpreter
needs an environment of its own (its pins fit no other framework), so its driver runs there and
is reached through `compat_bench.interpreter_client`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from compat_bench.drivers.base import CannotRun, Driver, ModelFreeDriver

#: name -> module, class
DRIVERS: Final[Mapping[str, tuple[str, str]]] = {
    "langchain": ("compat_bench.drivers.langchain", "LangChainDriver"),
    "autogen": ("compat_bench.drivers.autogen", "AutoGenDriver"),
    "llamaindex": ("compat_bench.drivers.llamaindex", "LlamaIndexDriver"),
    "open_interpreter": ("compat_bench.interpreter_client", "OpenInterpreterDriver"),
}


def load_driver(name: str) -> Driver:
    """The driver of that name.

    Raises:
        KeyError: there is none.
        ImportError: its framework, or its adapter, is not installed.
    """
    module, attribute = DRIVERS[name]
    make: Callable[[], Driver] = getattr(import_module(module), attribute)
    return make()


__all__ = ["DRIVERS", "CannotRun", "Driver", "ModelFreeDriver", "load_driver"]
