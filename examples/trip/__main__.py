"""A business trip from San Francisco to New York, planned by three teams on one model.

Run it from the checkout: `python examples/trip`. The model is a script, so that it runs offline.
With AIOS_MODEL, and for a server AIOS_BASE_URL, a real one takes its place.
"""

import sys
import tempfile
from pathlib import Path

import crowd
import model
import moving
import screen
import world
from kernel import make_kernel

from aios_core import Kernel, KernelError
from aios_core.access import ApprovalRequest

SCRIPTED = (
    "Three teams, one model, four slots. The model is a script, so that this runs offline. "
    "AIOS_BASE_URL=... AIOS_MODEL=... puts a real one in its place."
)
REAL = "Three teams, one model. A real model answers: what you see is what it does."


def main() -> None:
    """Run the trip in a directory of its own."""
    screen.title(
        "A business trip from San Francisco to New York",
        SCRIPTED if model.is_scripted() else REAL,
    )
    with tempfile.TemporaryDirectory(prefix="aios-trip-") as directory:
        run_trip(Path(directory))


def run_trip(directory: Path) -> None:
    """Show all steps; what is kept lies in the directory."""
    try:
        with make_kernel(directory / "state", approver=approve) as kernel:
            run_steps(kernel, directory)
    except KernelError as error:
        screen.line("stopped", f"{type(error).__name__}: {error}")
        sys.exit(1)


def run_steps(kernel: Kernel, directory: Path) -> None:
    """One step after the other, on one kernel."""
    import teams  # noqa: PLC0415 - three frameworks take seconds; the title is shown before

    kernel.load_tools(world.pay)
    kernel.load_tools(world.put_in_calendar)
    travel = kernel.spawn("planner", group="travel")
    lodging = kernel.spawn("desk", group="lodging")
    assistant = kernel.spawn("assistant", group="assistant")

    screen.step(1, "Flights", "team travel, LangChain")
    teams.find_flights(kernel, travel)
    screen.step(2, "Hotel", "team lodging, AutoGen; one booking at a time")
    teams.book_rooms(kernel, lodging)
    screen.step(3, "Sharing", "memory and files, by a grant")
    teams.share_plans(travel, lodging, assistant)
    screen.step(4, "Payment", "team assistant, LlamaIndex; a person approves")
    teams.pay_bills(kernel, assistant)
    screen.step(5, "Calendar", "a wrong date, rolled back")
    teams.keep_calendar(kernel, assistant)
    screen.step(6, "A noisy neighbor", crowd.describe())
    crowd.compare()
    crowd.cap(kernel)
    screen.step(7, "Freeze and move", "to another process, in mid-answer")
    moving.freeze_and_move(assistant, directory)
    screen.step(8, "Power cut", "while a payment is made")
    moving.lose_power(directory)


def approve(request: ApprovalRequest) -> bool:
    """Stand in for the traveler, who is asked about a payment."""
    asked = f"{request.arguments['payee']}, ${request.arguments['amount']}?"
    screen.line("traveler", f"is asked by {request.agent}: pay {asked} The answer is yes.")
    return True


if __name__ == "__main__":
    main()
