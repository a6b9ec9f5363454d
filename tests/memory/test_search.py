"""Search in the memory of agents."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    Kernel,
    KernelConfig,
)
from aios_core.cores.scripted import ScriptedCore

from .rig import kernel_on


class Counting:
    """An embedder that counts letters, and its calls."""

    dimensions = 26

    def __init__(self, name: str = "letters") -> None:
        self.name = name
        self.texts: list[str] = []
        self.threads: set[int] = set()

    async def embed(self, texts: list[str]) -> list[list[float]]:
        self.texts += texts
        self.threads.add(threading.get_ident())
        letters = "abcdefghijklmnopqrstuvwxyz"
        return [[float(text.count(letter)) for letter in letters] for text in texts]

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""


class TestSearch:
    def kernel_with(self, embedder: Any, directory: str | Path = ":memory:") -> Kernel:
        config = KernelConfig(state={"directory": str(directory)}, drain_s=1.0)
        return Kernel(config, cores=[ScriptedCore("ok")], embedder=embedder)

    def test_the_nearest_passage_comes_first(self) -> None:
        with self.kernel_with(Counting()) as kernel:
            memory = kernel.spawn("alice").memory
            memory.write("bees", "bbbbee")
            memory.write("seas", "sssea")
            memory.write("image", b"bbbbee")

            first, second = memory.search("bbbbee")
            assert (first.block, first.text, first.start, first.stop) == ("bees", "bbbbee", 0, 6)
            assert first.score == pytest.approx(1.0)
            assert second.block == "seas"
            assert memory.search("bee", prefix="s")[0].block == "seas"
            assert len(memory.search("bee", limit=1)) == 1

    def test_a_search_finds_what_was_written_and_not_what_was_replaced_since_the_last_one(
        self,
    ) -> None:
        with self.kernel_with(Counting()) as kernel:
            alice, bob = kernel.spawn("alice").memory, kernel.spawn("bob").memory
            alice.write("one", "bbbb")
            alice.write("two", "cccc")
            bob.write("one", "bbbb of bob")
            assert [hit.block for hit in alice.search("b")] == ["one"]

            alice.write("two", "bbbb too")
            alice.write("three", "bb")
            alice.clear("one")
            assert {hit.block for hit in alice.search("b")} == {"two", "three"}
            assert alice.search("c") == ()
            assert [hit.text for hit in bob.search("b")] == ["bbbb of bob"]

    def test_a_search_reads_the_vectors_of_a_block_once(self) -> None:
        with self.kernel_with(Counting()) as kernel:
            memory = kernel.spawn("alice").memory
            for number in range(20):
                memory.write(f"block {number}", "bbbb")
            memory.search("b")
            tables = kernel._inside.parts.memory._tables._tables
            assert tables is not None
            read: list[int] = []
            stored = tables.vectors._stored
            tables.vectors._stored = lambda c, o, n: read.append(n) or stored(c, o, n)  # type: ignore[method-assign, func-returns-value]
            memory.search("bb")
            assert read == []

            memory.write("block 3", "bbcc")
            memory.search("bb")
            assert len(read) == 1

    def test_a_text_without_similarity_is_not_found(self) -> None:
        with kernel_on(":memory:") as kernel:
            memory = kernel.spawn("alice").memory
            memory.write("empty", "...")
            memory.write("bees", "the bee hives in the garden")
            assert [hit.block for hit in memory.search("bee hives")] == ["bees"]

    def test_a_long_text_is_found_by_its_passage(self) -> None:
        with self.kernel_with(Counting()) as kernel:
            memory = kernel.spawn("alice").memory
            memory.write("book", "aaaa " * 300 + "zzzz " * 200)

            (hit, *_) = memory.search("z", limit=1)
            assert set(hit.text.split()) <= {"zzzz", "aaaa"}
            assert hit.text == memory.read("book", hit.start, hit.stop)
            assert hit.text.count("z") > hit.text.count("a")

    def test_only_what_changed_is_embedded_again(self, tmp_path: Path) -> None:
        embedder = Counting()
        with self.kernel_with(embedder, tmp_path) as kernel:
            memory = kernel.spawn("alice").memory
            memory.write("a", "aaa")
            memory.write("b", "bbb")
            memory.search("a")
            memory.write("a", "xyz")
            embedder.texts.clear()

            assert memory.search("x")[0].block == "a"
            assert embedder.texts == ["xyz", "x"]

        with self.kernel_with(embedder, tmp_path) as kernel:
            embedder.texts.clear()
            kernel.spawn("alice").memory.search("b")
            assert embedder.texts == ["b"]

        other = Counting("other letters")
        with self.kernel_with(other, tmp_path) as kernel:
            kernel.spawn("alice").memory.search("b")
            assert sorted(other.texts) == ["b", "bbb", "xyz"]

    def test_a_removed_block_is_not_found(self) -> None:
        with self.kernel_with(Counting()) as kernel:
            memory = kernel.spawn("alice").memory
            memory.write("a", "aaa")
            memory.search("a")
            memory.write("a", b"no text any more")

            assert memory.search("a") == ()
