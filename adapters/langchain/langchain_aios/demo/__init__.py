"""`aios demo`: 24 agents on one small model, natively and under each policy.

    aios demo --out out

Three groups share the model: one heavy, with all its work at hand, and two light
ones, whose people ask now and then. First the agents queue for a plain
transformers chat model, as they do today; then the kernel schedules the same
agents over the same weights, their tools as syscalls: notes go to its memory, facts
come from files in its storage. At the end agents of every installed framework share
one kernel. What comes out: a table, `timeline.png` (who held
the slots, and when), `trace.json` (the same for https://ui.perfetto.dev) and
`demo.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from langchain_aios.demo.arguments import parser

__all__ = ["main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit status."""
    try:
        from langchain_aios.demo.program import run  # noqa: PLC0415 - may lack its libraries
    except ModuleNotFoundError as exc:
        sys.stderr.write(
            f"aios demo needs {exc.name}, which is not installed; install what it needs with: "
            "pip install 'langchain-aios[demo]'\n"
        )
        return 1
    return run(sys.argv[1:] if argv is None else argv)
