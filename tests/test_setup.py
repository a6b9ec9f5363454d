"""Output of `make` during its first setup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "pip_install.py"


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def test_what_pip_says_is_shown_if_it_fails_with_its_status() -> None:
    done = install("--no-index", "no-such-package-of-anybody")

    assert done.returncode == 1
    assert "no-such-package-of-anybody" in done.stderr


def test_a_success_says_nothing_of_pips() -> None:
    done = install("--no-index", "pip")

    assert (done.returncode, done.stderr) == (0, "")
    assert "satisfied" not in done.stdout
