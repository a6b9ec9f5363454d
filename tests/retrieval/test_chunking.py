from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aios_core.retrieval.chunking import chunk_text, decode_text

TEXTS = st.text(alphabet="ab.\n é", max_size=600)
SIZES = st.integers(20, 120)


@given(TEXTS, SIZES, st.data())
def test_parts_are_parts_and_together_the_whole(text: str, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size // 2))

    chunks = chunk_text(text, size, overlap)

    covered = set()
    for chunk in chunks:
        assert text[chunk.start :].startswith(chunk.text)
        assert 0 < len(chunk.text) <= size
        covered |= set(range(chunk.start, chunk.start + len(chunk.text)))
    assert all(place in covered for place, char in enumerate(text) if not char.isspace())


@given(TEXTS, TEXTS)
def test_adding_to_a_text_changes_its_last_parts_only(text: str, more: str) -> None:
    before, after = chunk_text(text, 80, 20), chunk_text(text + more, 80, 20)

    kept = max(0, len(before) - 2)
    assert after[:kept] == before[:kept]


def test_a_part_ends_where_a_reader_would_pause() -> None:
    paragraph = "It rains. " * 9
    text = f"{paragraph}\n\n{paragraph}"

    first, *_ = chunk_text(text, 100, 10)

    assert first.text == paragraph.strip()


def test_a_part_begins_with_the_end_of_the_one_before() -> None:
    words = " ".join(f"word{number}" for number in range(100))

    first, second, *_ = chunk_text(words, 200, 50)

    assert second.start < first.start + len(first.text)
    assert second.text.startswith("word")


def test_a_short_text_is_one_part_and_a_blank_one_is_none() -> None:
    assert [chunk.text for chunk in chunk_text("hello", 100, 20)] == ["hello"]
    assert chunk_text(" \n ", 100, 20) == []


def test_what_is_no_text_is_not_read() -> None:
    assert decode_text(b"\x7fELF\0\0", 100) is None
    assert decode_text(bytes(range(128, 250)), 100) is None
    assert decode_text("grüße".encode(), 100) == "grüße"
    assert decode_text("grüße".encode(), 3) == "grü"
