"""`pip install` for people who wait: one line that shows what it is busy with.

    python scripts/pip_install.py PIP_ARGUMENT ...

On a terminal the line is rewritten; elsewhere a new one appears every 20 seconds. pip's own output
is shown only if it fails. Ctrl-C ends both quietly. Needs nothing but the Python that runs it.
"""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque

_EVERY_S = 20.0  # where nothing can be rewritten
_TAIL = 40  # lines of pip's that are shown if it fails
_BUSY_WITH = re.compile(
    r"^\s*(Collecting|Processing|Downloading|Obtaining|Using cached|Building|Preparing|Installing"
    r" collected|Installing build)\b(.*)"
)


class Progress:
    """The current step of pip, shown while it runs. The lock guards the text."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._lock = threading.Lock()
        self._step = "asking the package index"
        self._num_packages = 0
        self._is_terminal = sys.stdout.isatty()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    def read(self, line: str) -> None:
        """Take note of a line of pip's output."""
        if (found := _BUSY_WITH.match(line)) is None:
            return
        what, which = found.groups()
        with self._lock:
            self._num_packages += what in {"Collecting", "Processing"}
            name = which.strip().split(" (from ")[0].rsplit("/", 1)[-1]
            self._step = (
                "installing" if what == "Installing collected" else f"{what.lower()} {name}"
            )

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()
        if self._is_terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def _show(self) -> None:
        while not self._is_over.wait(0.5 if self._is_terminal else _EVERY_S):
            passed_s = time.monotonic() - self._started_at
            with self._lock:
                line = f"    {passed_s:.0f} s, {self._num_packages} packages: {self._step}"
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(f"\r\x1b[K{line[:width]}" if self._is_terminal else f"{line}\n")
            sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Install, and return pip's exit status."""
    command = [sys.executable, "-u", "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", *arguments]
    tail: deque[str] = deque(maxlen=_TAIL)
    progress = Progress()
    with subprocess.Popen(  # noqa: S603 - pip, with the Makefile's arguments
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                tail.append(line)
                progress.read(line)
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            status = 130
        finally:
            progress.end()
    if status not in (0, 130):
        sys.stderr.writelines(tail)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
