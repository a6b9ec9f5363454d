"""Check usage against the storage quotas of agents and groups. Pure decisions."""

from __future__ import annotations

from dataclasses import dataclass

from aios_core.config import StorageQuota
from aios_core.errors import QuotaExceeded


@dataclass(frozen=True, slots=True)
class OwnerUsage:
    """The usage of an owner or group: all versions of all files, deleted ones included."""

    bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True)
class Reclaimable:
    """The bytes of an owner that could be freed without touching current contents."""

    in_deleted: int = 0  # bytes of deleted files
    num_deleted: int = 0
    in_old: int = 0  # bytes of versions of live files that are not the newest

    def hint(self, resource: str) -> str:
        """Describe how to free some of a resource ("bytes" or "files")."""
        ways = []
        if self.num_deleted:
            ways.append(
                f"purge deleted files ({self.num_deleted:,} of them, {self.in_deleted:,} bytes)"
            )
        if self.in_old and resource == "bytes":
            ways.append(f"purge older versions ({self.in_old:,} bytes)")
        return " or ".join(ways or ["delete and purge files"]) + " to free some"


def exceeded(
    owner: str,
    quota: StorageQuota,
    kept: OwnerUsage,
    more: OwnerUsage,
    reclaimable: Reclaimable,
    *,
    setting: str,
) -> QuotaExceeded | None:
    """Return the error if the usage exceeds the quota, else None.

    Args:
        owner: the agent or group, for the message.
        quota: its limits.
        kept: its usage, `more` included.
        more: what the request adds; only a resource that grows can exceed its limit.
        reclaimable: what could be freed, for the hint.
        setting: the configuration key of the quota, such as "storage.agent".
    """
    limits = (
        ("bytes", quota.max_bytes, kept.bytes, more.bytes),
        ("files", quota.max_files, kept.files, more.files),
    )
    for resource, limit, used, requested in limits:
        if limit is not None and requested > 0 and used > limit:
            return QuotaExceeded(
                owner,
                f"{resource} of storage",
                limit=limit,
                used=used - requested,
                requested=requested,
                hint=f"{reclaimable.hint(resource)}, or raise {setting}.max_{resource}",
            )
    return None
