"""`aios demo`: 24 agents on one small model, natively and under each scheduling policy.

    aios demo --out out

Three groups share the model: a heavy one with all its work ready at the start, and two light
ones with a question now and then. First the agents wait for a plain transformers chat model;
then the kernel schedules the same agents over the same weights, with their tools as syscalls:
notes go to its memory, facts come from files in its storage. At the end, agents of every
installed framework share one kernel. The results: a table, `timeline.png` (who held
the slots, and when), `trace.json` (for https://ui.perfetto.dev) and `demo.json`.

    program        from the command line to the files; `arguments` has the options
    workload       the 24 agents; `tasks` and `facts` are what they do
    systems        the systems that are compared
    native         the system without a kernel, with `native_agents`
    kernel_agents  the agents on a kernel, with their tools in `kernel_tools`
    records        measurements, and the figures computed from them
    verdict        what the figures support, in sentences
    display        the live table; `timeline` and `output_files` write the results
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
