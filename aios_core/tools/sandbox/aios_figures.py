"""Save matplotlib's figures as files, inside the sandbox.

The kernel never imports this file: it is copied into the sandbox, as matplotlib's backend.
`plt.show()` saves all open figures as PNG files in ``figures/`` and closes them, and so does
the end of a cell or of a program. The path of each is printed.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

if "matplotlib" in sys.modules:  # matplotlib requires a canvas from its backend
    from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas  # noqa: F401

FOLDER = os.path.join(os.environ.get("HOME", "."), "figures")  # noqa: PTH118 - needs no pathlib


def save_open() -> None:
    """Save and close all open figures, if the program uses matplotlib."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        if len(figure.get_children()) > 1:  # more than its background
            path = _next_path()
            figure.savefig(path)
            shown = os.path.relpath(path, os.path.dirname(FOLDER))  # noqa: PTH120
            print(f"figure saved as {shown}", flush=True)  # noqa: T201 - part of the program's output
    pyplot.close("all")


def show(*_: object, **__: object) -> None:
    """Save and close all open figures; `matplotlib.pyplot.show` calls this."""
    save_open()


def _next_path() -> str:
    os.makedirs(FOLDER, exist_ok=True)  # noqa: PTH103
    taken = set(os.listdir(FOLDER))  # noqa: PTH208
    number = next(n for n in range(1, len(taken) + 2) if f"figure-{n}.png" not in taken)
    return os.path.join(FOLDER, f"figure-{number}.png")  # noqa: PTH118


atexit.register(save_open)
