"""Pictures that follow from the code: the states of a syscall, and the layers of the packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from text import table

from aios_core.syscalls import TRANSITIONS, SyscallState

ROOT = Path(__file__).parents[2]


def transitions() -> str:
    """Return the states of a syscall and the changes that are allowed, as a diagram."""
    lines = ["```mermaid", "stateDiagram-v2", "  direction LR", "  [*] --> ready"]
    for state in SyscallState:
        lines += [
            f"  {state.value} --> {after.value}"
            for after in SyscallState
            if after in TRANSITIONS[state]
        ]
        if not TRANSITIONS[state]:
            lines.append(f"  {state.value} --> [*]")
    return "\n".join([*lines, "```"])


def layers() -> str:
    """Return the layers of the kernel, highest first, from the import contracts."""
    rows = [
        (str(number), " ".join(f"`{name}`" for name in names))
        for number, names in enumerate(_layers(), start=1)
    ]
    return table(("Layer", "Modules and folders of `aios_core`"), rows)


def _layers() -> list[list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for contract in project["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "layers" and contract["containers"] == ["aios_core"]:
            return [sorted(re.findall(r"\w+", layer)) for layer in contract["layers"]]
    raise AssertionError("pyproject.toml has no layers of aios_core")
