"""Export the pictures that blocks of code made as files for the user.

The code writes them to the agent's files. This module reads them as the agent, and writes them
to a directory of the host, under names that the code cannot choose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from aios_core import Agent
from aios_core.errors import KernelError

log = logging.getLogger(__name__)

_PNG: Final = b"\x89PNG\r\n\x1a\n"


class Figures:
    """The pictures of one conversation.

    Args:
        directory: the target; created with the first picture.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def export(self, agent: Agent, paths: Iterable[str]) -> Iterator[str]:
        """Write PNG files of an agent to the directory; yields a line of text for each."""
        for path in paths:
            try:
                content = agent.storage.read(path)
                if content.startswith(_PNG):
                    yield f"[{path}: open {self._written(content)}]\n"
            except (KernelError, OSError) as exc:
                log.warning("the picture %r was not exported: %s", path, exc)
                yield f"[{path}: among the agent's files, not exported: {exc}]\n"

    def _written(self, content: bytes) -> Path:
        """Write a new file; the first free number is its name."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = self.directory / f"figure-{number}.png"
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                continue
            return path.absolute()
        raise AssertionError
