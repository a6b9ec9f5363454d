"""One contract for every index: the exact one with and without numpy, and Chroma."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios_core.errors import BackendError
from aios_core.retrieval import nearest
from aios_core.retrieval.chroma import ChromaIndex, is_installed
from aios_core.retrieval.nearest import ExactIndex, VectorIndex
from aios_core.retrieval.vector_rows import Row, pack

needs_chroma = pytest.mark.skipif(not is_installed(), reason="chromadb is not installed")


@pytest.fixture(params=["exact", "plain", pytest.param("chroma", marks=needs_chroma)])
def index(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VectorIndex]:
    if request.param == "plain":
        monkeypatch.setattr(nearest, "_numpy", lambda: None)
    made: VectorIndex = (
        ChromaIndex(tmp_path / "chroma", state_id="one")
        if request.param == "chroma"
        else ExactIndex()
    )
    yield made
    made.close()


def rows(count: int, dimensions: int = 16, seed: int = 1) -> list[Row]:
    dice = random.Random(seed)
    return [
        (number, pack(unit([dice.gauss(0, 1) for _ in range(dimensions)])))
        for number in range(1, count + 1)
    ]


def unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [value / length for value in vector]


def test_a_vector_is_nearest_to_itself(index: VectorIndex) -> None:
    some = rows(50)
    index.add(1, some)

    (first, *_) = index.nearest(1, some[6][1], 5)

    assert first == (7, pytest.approx(1.0, abs=1e-5))


def test_the_nearest_come_in_order_and_no_more_than_there_are(index: VectorIndex) -> None:
    index.add(1, rows(8))

    found = index.nearest(1, rows(1, seed=2)[0][1], 20)

    assert len(found) == 8
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)


def test_it_finds_what_a_full_comparison_finds(index: VectorIndex) -> None:
    some = rows(200)
    index.add(1, some)
    query = rows(1, seed=3)[0][1]

    found = index.nearest(1, query, 10)

    assert [n for n, _ in found] == [n for n, _ in nearest.exact_nearest(some, query, 10)]


def test_what_was_removed_is_not_found(index: VectorIndex) -> None:
    some = rows(20)
    index.add(1, some)

    index.remove(1, [3, 20, 99])

    assert index.ids(1) == set(range(1, 21)) - {3, 20}
    assert {n for n, _ in index.nearest(1, some[2][1], 20)} == set(range(1, 21)) - {3, 20}
    assert index.nearest(1, some[4][1], 1)[0][0] == 5  # the others stayed where they belong


def test_a_search_finds_nothing_of_another_index(index: VectorIndex) -> None:
    some = rows(20)
    index.add(1, some[:10])
    index.add(2, some[10:])

    assert {n for n, _ in index.nearest(2, some[0][1], 20)} == set(range(11, 21))
    assert index.ids(1) == set(range(1, 11))
    assert index.nearest(3, some[0][1], 5) == []


def test_adding_twice_is_adding_once(index: VectorIndex) -> None:
    some = rows(5)
    index.add(1, some)
    index.add(1, some)

    assert len(index.nearest(1, some[0][1], 10)) == 5


def test_only_those_asked_for_are_found(index: VectorIndex) -> None:
    some = rows(20)
    index.add(1, some)

    found = index.nearest(1, some[0][1], 5, {1, 4})

    assert {n for n, _ in found} <= {1, 4}
    assert found[0][0] == 1


def test_the_exact_index_forgets_spaces_beyond_its_memory() -> None:
    index = ExactIndex(max_bytes=25 * 64)
    index.add(1, rows(10))
    index.add(2, rows(10))
    index.nearest(1, rows(1)[0][1], 1)

    index.add(3, rows(10))

    assert [index.holds(space) for space in (1, 2, 3)] == [True, False, True]


@needs_chroma
def test_chroma_has_its_vectors_again_in_another_process_of_the_same_state(tmp_path: Path) -> None:
    some = rows(30)
    first = ChromaIndex(tmp_path, state_id="one")
    first.add(1, some)
    first.close()

    second = ChromaIndex(tmp_path, state_id="one")
    other = ChromaIndex(tmp_path, state_id="two")

    assert second.ids(1) == set(range(1, 31))
    assert second.nearest(1, some[4][1], 1)[0][0] == 5
    assert other.ids(1) == set()
    second.close()
    other.close()


@needs_chroma
def test_chroma_that_cannot_work_is_reported(tmp_path: Path) -> None:
    place = tmp_path / "chroma"
    place.write_text("a file where the folder should be")
    index = ChromaIndex(place, state_id="one")

    with pytest.raises(BackendError, match="Chroma"):
        index.add(1, rows(1))


@needs_chroma
def test_an_unreachable_chroma_server_is_reported() -> None:
    index = ChromaIndex(None, url="http://127.0.0.1:1", state_id="one")

    with pytest.raises(BackendError, match=r"127\.0\.0\.1:1"):
        index.nearest(1, rows(1)[0][1], 1)
