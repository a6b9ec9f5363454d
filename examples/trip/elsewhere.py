"""The work of a second process: continue an agent that was saved, or pay and not survive it."""

import sys
from collections.abc import Callable

import world
from kernel import make_kernel

BILL = {"payee": "hotel", "amount": 80}
INVOICE = "invoice 7731"  # names the payment, so that a repeat is known as one


def continue_agent(saved: str, state: str) -> None:
    """Load the assistant and print the whole answer that it was giving."""
    with make_kernel(state) as kernel:
        assistant = kernel.load_agent(saved)
        for answer in assistant.resumed_calls:
            print(answer.result().text)


def pay(state: str) -> None:
    """Pay the hotel."""
    with make_kernel(state) as kernel:
        kernel.load_tools(world.pay)
        assistant = kernel.spawn("assistant", group="assistant")
        assistant.tools.run("pay", BILL, idempotency_key=INVOICE)


if __name__ == "__main__":
    what, *places = sys.argv[1:]
    commands: dict[str, Callable[..., None]] = {"continue": continue_agent, "pay": pay}
    commands[what](*places)
