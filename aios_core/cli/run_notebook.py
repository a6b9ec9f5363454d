"""A notebook's cells as Jupyter would run them, one after the other, in this process.

IPython runs them: magics, ``await`` outside a function, the value of a cell's last line.
What it would leave behind elsewhere (history, a profile in the home directory) it keeps
in a temporary folder. The first cell that fails ends the run.
"""

from __future__ import annotations

import atexit
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aios_core.cli.failures import is_debugging, report, setup_failure
from aios_core.cli.interruption import end_soon
from aios_core.distribution import install_command
from aios_core.errors import InvalidRequest, KernelError

SUFFIX = ".ipynb"


def is_notebook(name: str) -> bool:
    """Return whether a script is a notebook, by its name."""
    return Path(name).suffix == SUFFIX


def read_cells(path: Path) -> list[str]:
    """Read the source of the code cells, in order. Raises `InvalidRequest` for other files."""
    try:
        content = json.loads(path.read_text("utf-8"))
        cells = content["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as exc:
        raise InvalidRequest(
            f"{str(path)!r} is not a notebook of format 4 or newer ({type(exc).__name__}: {exc})"
        ) from exc


def run_notebook(path: Path) -> int:
    """Run its code cells; the exit status.

    Raises `InvalidRequest` if it is not a notebook, or IPython is not installed, and
    `KeyboardInterrupt`.
    """
    cells = read_cells(path)
    with _shell() as shell:
        for cell in cells:
            result = shell.run_cell(cell, store_history=True)
            error = result.error_before_exec or result.error_in_exec
            if isinstance(error, KeyboardInterrupt):
                end_soon()
                raise error
            if isinstance(error, SystemExit):
                return _status(error)
            if error is not None and (failure := _setup_failure(error)):
                return report(failure)
            if error is not None:
                return 1
    return 0


@contextmanager
def _shell() -> Iterator[Any]:
    """An IPython of its own; afterwards `sys` is as it was."""
    try:
        from IPython.core.interactiveshell import InteractiveShell  # noqa: PLC0415 - may be missing
        from traitlets.config import Config  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise InvalidRequest(
            f"a notebook needs IPython; install it with: {install_command('notebook')}"
        ) from exc

    class Shell(InteractiveShell):
        def init_virtualenv(self) -> None:
            """Not that of $VIRTUAL_ENV: the environment of `aios` is the one."""

        def showtraceback(self, *arguments: Any, **options: Any) -> None:
            """Show the traceback of a cell, unless the error will be printed in one line."""
            error = sys.exc_info()[1]
            if error is None or _setup_failure(error) is None:
                super().showtraceback(*arguments, **options)

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor" if not sys.stdout.isatty() else "neutral"
    with TemporaryDirectory(prefix="aios-notebook-") as directory:
        shell: Any = Shell.instance(config=config, ipython_dir=directory)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "To exit: use")  # there is no prompt
                yield shell
        finally:
            atexit.unregister(shell.atexit_operations)
            shell.atexit_operations()
            shell.restore_sys_module_state()
            Shell.clear_instance()


def _setup_failure(error: BaseException) -> KernelError | None:
    return None if is_debugging() else setup_failure(error)


def _status(exc: SystemExit) -> int:
    return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
