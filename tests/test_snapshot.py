"""Snapshots as JSON: what was written is read, and what is damaged is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core import SnapshotError
from aios_core.snapshot import Snapshot, Tier

IDS = st.lists(st.integers(0, 1 << 20), max_size=20).map(tuple)
SNAPSHOTS = st.builds(
    Snapshot,
    model=st.text(),
    prompt_ids=IDS,
    output_ids=IDS,
    text=st.text(),
    sampler=st.none() | st.binary(),
)
WHOLE = Snapshot("m", (1, 2), (3,), "hi", b"\x00dice")


@given(SNAPSHOTS)
def test_the_text_part_survives_json(snapshot: Snapshot) -> None:
    assert Snapshot.decode(json.loads(json.dumps(snapshot.encode()))) == snapshot


def test_the_image_is_no_part_of_the_text() -> None:
    image: Any = object()

    assert Snapshot.decode(replace(WHOLE, kv=image).encode()) == WHOLE
    assert replace(WHOLE, kv=image).without_kv() == WHOLE


def test_its_tokens_are_those_to_compute_again() -> None:
    assert WHOLE.num_tokens == 3


@pytest.mark.parametrize("missing", list(WHOLE.encode()))
def test_a_snapshot_that_misses_a_part_is_refused(missing: str) -> None:
    raw = WHOLE.encode()
    del raw[missing]

    with pytest.raises(SnapshotError):
        Snapshot.decode(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"prompt_ids": ["x"]},
        {"output_ids": 5},
        {"sampler": "no base64!"},
        {"prompt_ids": None},
    ],
    ids=repr,
)
def test_a_damaged_snapshot_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SnapshotError):
        Snapshot.decode({**WHOLE.encode(), **change})


@given(st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.text()))
def test_whatever_is_no_snapshot_is_refused(raw: Any) -> None:
    with pytest.raises(SnapshotError):
        Snapshot.decode(raw)


def test_tiers_are_ordered_from_fast_to_slow() -> None:
    assert Tier.DEVICE < Tier.HOST < Tier.DISK
