"""Open Interpreter on the kernel: one line, `attach`.

Run it as it is, where Open Interpreter is installed (`make test-interpreter` makes such an
environment): `.venv-interpreter/bin/python examples/open_interpreter/hello.py`. No key is needed;
the bundled tiny model answers, and nothing leaves this machine.
"""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or importing Open Interpreter fetches one

from interpreter import OpenInterpreter

from aios_core import Kernel, KernelConfig, SandboxUnavailable
from open_interpreter_aios import attach


def approve(asked: object) -> bool:
    """Approve code before the kernel runs it. A real program would ask a person here."""
    print(f"  may it? {asked}")
    return True


with Kernel(KernelConfig(cores=({"kind": "tiny"},)), approver=approve) as kernel:
    interpreter = OpenInterpreter(system_message="")
    attached = attach(interpreter, agent="ann", kernel=kernel)

    print("you: hello")
    for message in interpreter.chat("hello", display=False):
        print("ann:", message["content"])

    print("you: what is 123 times 45?")
    try:
        for message in interpreter.chat("what is 123 times 45?", display=False):
            print("ann:", message["content"])
    except SandboxUnavailable as exc:
        print("ann:", exc)

    # Another interpreter of the same agent continues the conversation, also in another program.
    second = OpenInterpreter(system_message="")
    attach(second, agent="ann", conversation=attached.conversation, kernel=kernel)
    print(f"ann remembers {len(second.messages)} messages")
