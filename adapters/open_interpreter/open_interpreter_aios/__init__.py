"""Run Open Interpreter on the AIOS kernel.

    from interpreter import interpreter
    from open_interpreter_aios import attach

    attach(interpreter, agent="ann")
    interpreter.chat("what is 6 times 7?")

Its model, its code and its history become syscalls of one agent: scheduled among all
agents, accounted, checked and cancellable. Importing this package starts nothing, and does not
import Open Interpreter, which uses the network when it is imported.
"""

from open_interpreter_aios.attachment import Attachment, attach, detach

__all__ = ["Attachment", "attach", "detach"]
