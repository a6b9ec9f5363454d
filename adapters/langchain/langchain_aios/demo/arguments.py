"""The options of `aios demo`; imports nothing of the demo itself."""

from __future__ import annotations

import argparse
from typing import Final

POLICIES: Final = ("fifo", "round_robin", "fair", "las")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="aios demo",
        description="24 LangChain agents on one small model, natively and under each policy.",
    )
    made.add_argument("--out", default="out", metavar="DIR", help="where the files go (out)")
    made.add_argument(
        "--rounds",
        type=_at_least_one,
        default=2,
        metavar="N",
        help="how often each system runs, in alternating order (2)",
    )
    made.add_argument("--seed", type=int, default=1, help="of the agents' tasks (1)")
    made.add_argument(
        "--slots",
        type=_at_least_one,
        default=4,
        metavar="N",
        help="contexts that the kernel's core holds at once (4)",
    )
    made.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=POLICIES, help="which to run (all)"
    )
    made.add_argument("--quick", action="store_true", help="a few agents and tasks only")
    return made


def _at_least_one(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: a whole number, at least 1")
    return number
