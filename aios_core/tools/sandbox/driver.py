"""The program that runs the cells of a session, inside the sandbox.

The kernel never imports this file: it is copied into the sandbox, and uses only the standard
library. Its two arguments are the descriptors to read cells from and to write replies to.
Variables are kept between cells, in `__main__`. None of this is a security boundary, because a
cell can do anything to this process: the sandbox confines both.
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import signal
import subprocess
import sys
import traceback
import types
from typing import Any

LONGEST_VALUE = 100_000  # characters


class Driver:
    """The loop that runs cells, with their variables."""

    def __init__(self, cells: int, replies: int) -> None:
        self._cells = open(cells, "rb", buffering=0)  # noqa: SIM115 - open until the end
        self._replies = replies
        self._pid = os.getpid()
        self._main = types.ModuleType("__main__")
        sys.modules["__main__"] = self._main

    def serve(self) -> None:
        """Run cells until the kernel closes its end of the pipe."""
        while (cell := self._next()) is not None:
            try:
                try:
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    exit_code, value = self._run(cell)
                finally:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
            except KeyboardInterrupt:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                exit_code, value = 130, None
                sys.stderr.write("KeyboardInterrupt\n")
            if os.getpid() != self._pid:  # the cell forked, and this is the child
                os._exit(0)
            _flush()
            self._reply({"cell": cell["cell"], "exit_code": exit_code, "value": value})

    def _run(self, cell: dict[str, Any]) -> tuple[int, str | None]:
        if cell["language"] == "shell":
            ended = subprocess.run(["/bin/sh", "-c", cell["code"]], check=False)  # noqa: S603
            code = ended.returncode
            return (128 - code if code < 0 else code), None
        name = f"<cell {cell['cell']}>"
        lines = cell["code"].splitlines(keepends=True)
        linecache.cache[name] = (len(cell["code"]), None, lines, name)
        try:
            value = self._evaluate(cell["code"], name)
            text = None if value is None else repr(value)
        except BaseException as exc:  # noqa: BLE001 - any exception is the result of the cell
            _show(exc)
            return 1, None
        finally:
            _save_figures()
        if text is not None and len(text) > LONGEST_VALUE:
            text = text[:LONGEST_VALUE] + "..."
        return 0, text and text.encode(errors="replace").decode()

    def _evaluate(self, code: str, name: str) -> Any:
        """Execute code. Returns the value of its last statement, if that is an expression."""
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        variables = self._main.__dict__
        exec(compile(tree, name, "exec", dont_inherit=True), variables)  # noqa: S102 - what this program is for
        if not isinstance(last, ast.Expr):
            return None
        code_object = compile(ast.Expression(last.value), name, "eval", dont_inherit=True)
        value = eval(code_object, variables)  # noqa: S307
        if value is not None:
            variables["_"] = value
        return value

    def _next(self) -> dict[str, Any] | None:
        header = self._read(4)
        if len(header) < 4:
            return None
        cell: dict[str, Any] = json.loads(self._read(int.from_bytes(header, "big")))
        return cell

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size and (piece := self._cells.read(size - len(content))):
            content += piece
        return content

    def _reply(self, reply: dict[str, Any]) -> None:
        frame = json.dumps(reply).encode()
        content = len(frame).to_bytes(4, "big") + frame
        while content:
            content = content[os.write(self._replies, content) :]


def _show(exc: BaseException) -> None:
    """Print a traceback without the frames of this file."""
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    traceback.print_exception(type(exc), exc, frames)


def _save_figures() -> None:
    """Save matplotlib's open figures as files, which outlive the cell."""
    if "matplotlib.pyplot" not in sys.modules:
        return
    try:
        import aios_figures  # type: ignore[import-not-found]  # noqa: PLC0415 - exists only inside

        aios_figures.save_open()
    except Exception as exc:  # noqa: BLE001 - drawing may raise anything
        _show(exc)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or replaced by the cell
            continue


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cells, replies = map(int, sys.argv[1:3])
    sys.argv[1:] = []
    for descriptor in (cells, replies):
        os.set_inheritable(descriptor, False)
    Driver(cells, replies).serve()


if __name__ == "__main__":
    main()
