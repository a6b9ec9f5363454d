"""The kernel: wires the components, and is the border to callers.

kernel            `Kernel`: spawn agents, observe, close
agent, llm        `Agent` and `LLM`: the handles that programs use
port              an agent's way into the kernel, for LLM calls and all other requests
wiring            build and close the components
lifecycle         spawn, freeze, save, load and end agents, on the kernel's loop
multiple_answers  make one call for each of several answers to a prompt
syscall_handler   serve syscalls that need no core
streams           answers that arrive piece by piece, on threads and event loops
loop_thread       the thread of the kernel's loop, if the program has none for it
loop_portal       run code on the kernel's loop from anywhere
default           the kernel of programs that make none
arguments         check what a caller passes to `Kernel`
exit              close kernels when the interpreter exits
provenance        find texts that labeled agents have read or written
trace             write who ran where and when, for Perfetto
"""

from aios_core.kernel.agent import Agent
from aios_core.kernel.kernel import Kernel
from aios_core.kernel.llm import LLM

__all__ = ["LLM", "Agent", "Kernel"]
