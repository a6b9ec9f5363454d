"""The kernel: start and wire the components, and serve programs on any thread or event loop.

    kernel            `Kernel`: spawn, freeze, save and end agents; observe; close
    agent             `Agent`: the handle to one process
    llm               `LLM`: its LLM syscalls, `agent.llm`
    port              an agent's way into the kernel, for LLM calls and all other requests
    streams           answers that arrive delta by delta
    multiple_answers  make one call for each of several answers to a prompt
    default           the kernel of programs that make none
    arguments         check what a caller passes to `Kernel`
    wiring            build the components, and close them in order
    lifecycle         spawn, freeze, save, load and end agents, on the kernel's loop
    syscall_handler   serve syscalls that need no core
    provenance        find texts that labeled agents have read or written
    loop_thread       the thread of the kernel's loop, if the program has no loop for it
    loop_portal       run code on the kernel's loop from other threads and loops
    exit              close kernels when the interpreter exits
    trace             write who ran where and when, for Perfetto

Syscalls that need a core are served by `aios_core.scheduler`, the others by the managers of
memory, storage, tools and access.
"""

from aios_core.kernel.agent import Agent
from aios_core.kernel.kernel import Kernel
from aios_core.kernel.llm import LLM

__all__ = ["LLM", "Agent", "Kernel"]
