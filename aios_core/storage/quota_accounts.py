"""Charge owners for the files that they keep, and enforce their quotas.

A charge is part of the transaction that changes the files.
"""

from __future__ import annotations

from typing import Any

from aios_core.config import StorageConfig, StorageQuota
from aios_core.identity import group_of
from aios_core.state import Connection
from aios_core.storage.quota import OwnerUsage, Reclaimable, exceeded
from aios_core.storage.records import StorageUsage

_ADD = """
    INSERT INTO file_usage VALUES (?, ?, ?, ?) ON CONFLICT (owner)
    DO UPDATE SET bytes = bytes + excluded.bytes, files = files + excluded.files
"""
_RECLAIMABLE = """
    SELECT coalesce(sum(v.charged) FILTER (WHERE NOT f.is_live), 0),
           count(DISTINCT f.id) FILTER (WHERE NOT f.is_live),
           coalesce(sum(v.charged) FILTER (WHERE f.is_live AND v.version < f.version), 0)
    FROM file_versions v JOIN files f ON f.id = v.file
    WHERE f.owner = ? AND f.path IS NOT NULL
"""


class QuotaAccounts:
    """Charges owners for stored files, and enforces quotas. Runs in the caller's transaction."""

    def __init__(self, limits: StorageConfig) -> None:
        self._limits = limits

    def charge(self, connection: Connection, owner: str, *, num_bytes: int, num_files: int) -> None:
        """Charge an owner for bytes and files, negative if fewer. Raises `QuotaExceeded`."""
        group = group_of(owner)
        connection.execute(_ADD, (owner, group, num_bytes, num_files))
        if num_bytes <= 0 and num_files <= 0:
            return
        more, kept = OwnerUsage(num_bytes, num_files), self.usage_of(connection, owner)
        self._require(
            connection,
            owner,
            self._limits.agent,
            kept,
            more=more,
            who=f"agent {owner!r}",
            setting="storage.agent",
        )
        quota = self._limits.groups.get(group)
        if quota is not None:
            row: Any = connection.execute(
                "SELECT sum(bytes), sum(files) FROM file_usage WHERE family = ?", (group,)
            ).fetchone()
            self._require(
                connection,
                owner,
                quota,
                OwnerUsage(*row),
                more=more,
                who=f"group {group!r}",
                setting=f"storage.groups.{group}",
            )

    def usage_of(self, connection: Connection, owner: str) -> OwnerUsage:
        """Return what an owner keeps."""
        row = connection.execute(
            "SELECT bytes, files FROM file_usage WHERE owner = ?", (owner,)
        ).fetchone()
        return OwnerUsage(*row) if row else OwnerUsage()

    def usage(self, connection: Connection, owner: str) -> StorageUsage:
        """Return what an owner keeps and the quota of it."""
        kept, quota = self.usage_of(connection, owner), self._limits.agent
        return StorageUsage(kept.bytes, kept.files, quota.max_bytes, quota.max_files)

    def _require(
        self,
        connection: Connection,
        owner: str,
        quota: StorageQuota,
        kept: OwnerUsage,
        *,
        more: OwnerUsage,
        who: str,
        setting: str,
    ) -> None:
        if exceeded(who, quota, kept, more, Reclaimable(), setting=setting) is None:
            return  # the query for the hint reads all versions: only for a refusal
        row: Any = connection.execute(_RECLAIMABLE, (owner,)).fetchone()
        error = exceeded(who, quota, kept, more, Reclaimable(*row), setting=setting)
        if error is not None:
            raise error
