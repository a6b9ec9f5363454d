"""The hash chain of the audit trail: each hash covers a record and the hash before it.

    hash[n] = SHA-256(hash[n-1] + n + record[n])          hash[0] = 32 zero bytes

A record that was edited, removed, added or moved breaks the chain. Cutting off its end
does not, so the head, the number and hash of the last record, is kept elsewhere too.
Pure: rows and heads in, faults out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Row:
    """A stored record. None stands for a value that is not bytes."""

    number: int  # from 1
    record: bytes | None
    hash: bytes | None


@dataclass(frozen=True, slots=True)
class Head:
    """The number and hash of the last record at some time, as `source` remembers it."""

    number: int
    hash: bytes
    at: float  # seconds since 1970
    source: str = "audit.head"


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result of verifying the whole trail."""

    num_records: int
    faults: tuple[str, ...]
    num_anchored: int  # records up to here are vouched for by a head
    notes: tuple[str, ...] = ()  # what was not verified

    @property
    def is_intact(self) -> bool:
        return not self.faults


def chain_hash(previous: bytes, number: int, record: bytes) -> bytes:
    """Compute the hash of a record that follows one with the hash `previous`."""
    return hashlib.sha256(previous + number.to_bytes(8, "big") + record).digest()


def verify(
    rows: Iterable[Row], heads: Iterable[Head], start: Head | None = None
) -> VerificationReport:
    """Check all records, in order of their numbers, against the chain and the heads.

    `start` is the head before the first record, if earlier records were archived.
    """
    by_number: dict[int, list[Head]] = {}
    for head in heads:
        by_number.setdefault(head.number, []).append(head)
    faults: list[str] = []
    start = start or Head(0, GENESIS, 0.0)
    last, previous, anchored = start.number, start.hash, 0
    for row in rows:
        expected = None if row.record is None else chain_hash(previous, last + 1, row.record)
        if row.number <= last:  # there is none before the first
            faults.append(f"record {row.number} was never written")
            continue
        if row.number != last + 1:
            faults.append(_missing(last + 1, row.number - 1))
        elif expected is None or expected != row.hash:
            faults.append(f"record {row.number} is not what was written there")
        for head in by_number.pop(row.number, ()):
            if head.hash == row.hash:
                anchored = row.number
            else:
                faults.append(f"record {row.number} is not the one that {head.source} vouches for")
        last, previous = row.number, row.hash or expected or b""
    if (lost := max(by_number, default=0)) > last:
        source = by_number[lost][0].source
        faults.append(f"{_missing(last + 1, lost)} at the end: {source} vouches for {lost}")
    return VerificationReport(last, tuple(faults), anchored)


def _missing(first: int, last: int) -> str:
    return (
        f"record {first} is missing" if first == last else f"records {first} to {last} are missing"
    )
