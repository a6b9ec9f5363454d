"""Run Open Interpreter on the AIOS kernel.

    from interpreter import interpreter
    from open_interpreter_aios import attach

    attach(interpreter, agent="ann")
    interpreter.chat("what is 6 times 7?")

Its model, its code and its history become syscalls of one agent: scheduled among all agents,
accounted, checked, cancellable.

    attachment         `attach`: connect one interpreter to one agent
    interpreter_agent  the agent of an interpreter, and how a turn ended
    completions        the model's calls
    code_tools         the tools that run code in the sandbox; `code_block` is one running block
    figures            export pictures that code made
    history            messages as a thread in the agent's memory
    terminal           the terminal program
    launcher           the patches of `aios run` and `install()`, in `patches`
    errors             kernel errors as those of LiteLLM
    offline            settings that keep LiteLLM's import off the network

What is common to all adapters is in `aios_adapters`. Importing this starts nothing, and does not
import Open Interpreter, because importing that accesses the network.
"""

from open_interpreter_aios.attachment import Attachment, attach, detach

__all__ = ["Attachment", "attach", "detach"]
