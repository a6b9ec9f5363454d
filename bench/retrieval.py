"""Retrieval among 1 k and 100 k documents: exact and Chroma, against SQLite FTS5 and numpy.

All rows of a size search the same documents with the same questions, in one run. A document
is 40 words, most of them of its topic, rare words as rare as in a language (Zipf); a question is
4 of a document's words.

    python bench/retrieval.py [--quick]
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from _report import arguments, quantile, show, write

from aios_core import CollectionItem, Kernel, KernelConfig
from aios_core.cores.embedding.hashing import hashed
from aios_core.cores.scripted import ScriptedCore

SIZES = (1_000, 100_000)  # documents
QUESTIONS = 200
NEAREST = 10
DIMENSIONS = 256
WORDS, TOPICS, LENGTH = 20_000, 200, 40  # of the language; topics; words of a document
PUT = 1_000  # documents in one request
CAPTION = (
    "filled: documents a second until the first answer; for Chroma, from the rows that are stored "
    "already. recall: share of the\nten nearest by exact comparison that were found. found: "
    "questions with their own document among the ten. kernel: agent.collections\nwith the default "
    "embedder (hashing, 256 numbers); access check, audit, and the embedding of the question "
    "included, as for numpy."
)

Search = Callable[[str], Awaitable[Sequence[str]]]


def documents(number: int) -> list[str]:
    """Make documents, equal in every run."""
    rng = random.Random(7)
    language = [_word(rng) for _ in range(WORDS)]
    weights = list(accumulate(1 / rank for rank in range(1, WORDS + 1)))
    topics = [rng.sample(language, 100) for _ in range(TOPICS)]
    made = []
    for _ in range(number):
        topic = rng.choice(topics)
        plain = rng.choices(language, cum_weights=weights, k=LENGTH // 2)
        made.append(" ".join([*plain, *rng.choices(topic, k=LENGTH - len(plain))]))
    return made


def questions(texts: Sequence[str], number: int) -> list[tuple[str, str]]:
    """Pairs of a question and the key of the document that it was taken from."""
    rng = random.Random(8)
    chosen = rng.sample(range(len(texts)), number)
    return [(" ".join(rng.sample(texts[one].split(), 4)), str(one)) for one in chosen]


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(3))


async def measured(
    system: str, asked: Sequence[tuple[str, str]], search: Search, **facts: Any
) -> tuple[dict[str, Any], list[Sequence[str]]]:
    """Ask everything, one question after the other; the row, and what was found."""
    took, found = [], []
    for question, _ in asked:
        began = time.perf_counter()
        found.append(await search(question))
        took.append(time.perf_counter() - began)
    own = sum(key in keys for (_, key), keys in zip(asked, found, strict=True))
    row = {
        "system": system,
        "p50_ms": 1e3 * quantile(took, 0.5),
        "p99_ms": 1e3 * quantile(took, 0.99),
        "found": own / len(asked),
        **facts,
    }
    return row, found


def recall(found: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """The share of what is right that was found."""
    pairs = zip(found, truth, strict=True)
    return sum(len(set(f) & set(t)) for f, t in pairs) / sum(map(len, truth))


async def of_kernel(
    directory: Path, index: str, texts: Sequence[str], asked: Sequence[tuple[str, str]]
) -> tuple[dict[str, Any], list[Sequence[str]]]:
    """The first kernel on a directory stores the documents; later ones find them there."""
    config = KernelConfig.load(
        environ={},
        state={"directory": str(directory / "state")},
        embedding={"dimensions": DIMENSIONS},
        retrieval={"index": index},
        drain_s=0.0,
    )
    async with Kernel(config, cores=[ScriptedCore("pong")]) as kernel:
        collections = (await kernel.aspawn("reader")).collections

        async def search(question: str) -> Sequence[str]:
            matches = await collections.asearch("documents", question, k=NEAREST)
            return [match.key for match in matches]

        began = time.perf_counter()
        if index == "exact":
            for start in range(0, len(texts), PUT):
                some = enumerate(texts[start : start + PUT], start)
                await collections.aput("documents", [CollectionItem(str(n), t) for n, t in some])
        await search(asked[0][0])  # fills the index
        filled = len(texts) / (time.perf_counter() - began)
        return await measured(f"kernel, {index}", asked, search, filled=filled)


async def of_numpy(
    texts: Sequence[str], asked: Sequence[tuple[str, str]]
) -> tuple[dict[str, Any], list[Sequence[str]]]:
    """Search one matrix in memory with numpy alone."""
    began = time.perf_counter()
    flat = array("f")
    for text in texts:
        flat.extend(hashed(text, DIMENSIONS))
    matrix = np.frombuffer(flat, np.float32).reshape(len(texts), DIMENSIONS)

    async def search(question: str) -> Sequence[str]:
        scores = matrix @ np.asarray(hashed(question, DIMENSIONS), np.float32)
        best = np.argpartition(-scores, NEAREST)[:NEAREST]
        return [str(number) for number in best]

    await search(asked[0][0])
    filled = len(texts) / (time.perf_counter() - began)
    return await measured("numpy, in memory", asked, search, filled=filled)


async def of_fts5(
    directory: Path, texts: Sequence[str], asked: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """SQLite's own search for words, ranked by BM25: no vectors, so no recall of them."""
    connection = apsw.Connection(str(directory / "fts.db"))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE VIRTUAL TABLE documents USING fts5(text)")
    began = time.perf_counter()
    for start in range(0, len(texts), PUT):
        with connection:
            rows = [(n, t) for n, t in enumerate(texts[start : start + PUT], start)]
            connection.executemany("INSERT INTO documents (rowid, text) VALUES (?, ?)", rows)

    async def search(question: str) -> Sequence[str]:
        found = connection.execute(
            "SELECT rowid FROM documents WHERE documents MATCH ? ORDER BY rank LIMIT ?",
            (" OR ".join(question.split()), NEAREST),
        )
        return [str(number) for (number,) in found]

    await search(asked[0][0])
    filled = len(texts) / (time.perf_counter() - began)
    row, _ = await measured("SQLite FTS5", asked, search, filled=filled)
    connection.close()
    return row


async def of_size(size: int) -> list[dict[str, Any]]:
    texts = documents(size)
    asked = questions(texts, min(QUESTIONS, size))
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as name:
        directory = Path(name)
        rows = [await of_fts5(directory, texts, asked)]
        plain, found_plainly = await of_numpy(texts, asked)
        exact, truth = await of_kernel(directory, "exact", texts, asked)
        chroma, found = await of_kernel(directory, "chroma", texts, asked)
    exact["recall"] = 1.0
    plain["recall"] = recall(found_plainly, truth)
    chroma["recall"] = recall(found, truth)
    rows += [plain, exact, chroma]
    return [{"documents": size, **row} for row in rows]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for size in SIZES[:1] if arguments(__doc__).quick else SIZES:
        rows += asyncio.run(of_size(size))
    columns = {
        "system": "{system}",
        "documents": "{documents:,}",
        "filled": "{filled:,.0f} /s",
        "p50": "{p50_ms:.2f} ms",
        "p99": "{p99_ms:.2f} ms",
        "recall": "{recall:.3f}",
        "found": "{found:.3f}",
    }
    show("Retrieval of the ten nearest", columns, rows, CAPTION)
    write("retrieval", rows)


if __name__ == "__main__":
    main()
