"""A workspace with agents' files, for tests of the sandbox."""

from __future__ import annotations

from pathlib import Path


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


class Files:
    """A workspace that keeps files in a dictionary."""

    def __init__(self) -> None:
        self.trees: dict[str, dict[str, str]] = {"default/alice": {"in.txt": "hello"}}
        self.commits: list[tuple[str, frozenset[str]]] = []

    labels = frozenset({"mail"})

    async def checkout(self, identity: str, directory: Path) -> Files:
        for name, text in self.trees.get(identity, {}).items():
            (directory / name).write_text(text)
        return self

    async def commit(self, identity: str, directory: Path, labels: frozenset[str]) -> None:
        self.commits.append((identity, labels))
        self.trees[identity] = contents(directory)
