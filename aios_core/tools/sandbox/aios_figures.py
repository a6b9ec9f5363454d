"""Save matplotlib's figures as files, inside the sandbox.

It is read as text and placed inside, where it is matplotlib's backend; nobody imports it here.
`plt.show()` saves all open figures as PNG below ``figures/`` and closes them, and so does
the end of a cell or of a program. Each is named in the output.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

if "matplotlib" in sys.modules:  # which asks its backend for a canvas
    from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvas  # noqa: F401

FOLDER = os.path.join(os.environ.get("HOME", "."), "figures")  # noqa: PTH118 - needs no pathlib


def save_open() -> None:
    """Save and close the figures that are open, if the program uses matplotlib at all."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        if len(figure.get_children()) > 1:  # more than its background
            path = _next_path()
            figure.savefig(path)
            shown = os.path.relpath(path, os.path.dirname(FOLDER))  # noqa: PTH120
            print(f"figure saved as {shown}", flush=True)  # noqa: T201 - for who reads the output
    pyplot.close("all")


def show(*_: object, **__: object) -> None:
    """Called by `matplotlib.pyplot.show`."""
    save_open()


def _next_path() -> str:
    os.makedirs(FOLDER, exist_ok=True)  # noqa: PTH103
    taken = set(os.listdir(FOLDER))  # noqa: PTH208
    number = next(n for n in range(1, len(taken) + 2) if f"figure-{n}.png" not in taken)
    return os.path.join(FOLDER, f"figure-{number}.png")  # noqa: PTH118


atexit.register(save_open)
