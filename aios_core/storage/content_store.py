"""Store the bytes of file versions: encrypted in the row if they are few, else in a blob.

A small content needs no file of its own, and is committed with its row. A large one is
compressed, and stored once even if many versions have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import KernelBug
from aios_core.state import BlobStore, Cipher, Connection

INLINE_BYTES: Final = 16 * 1024  # larger contents are stored as blobs


@dataclass(slots=True, eq=False)
class Content:
    """The content of a version: `data` if it is small, the address of a `blob` otherwise."""

    size: int
    data: bytes | None = None
    blob: str | None = None
    is_held: bool = False  # the blob is stored, and no row refers to it yet

    def is_same(self, other: Content) -> bool:
        """Return whether both contents have equal bytes."""
        return (self.size, self.data, self.blob) == (other.size, other.data, other.blob)


class ContentStore:
    """Stores and reads the contents of file versions. Thread-safe."""

    def __init__(self, cipher: Cipher, blobs: BlobStore) -> None:
        self._cipher = cipher
        self._blobs = blobs

    def store(self, data: bytes) -> Content:
        """Store a large content durably as a blob; keep a small one in memory, for its row.

        The caller must `discard` the content if no row refers to it in the end.
        """
        if len(data) <= INLINE_BYTES:
            return Content(len(data), data)
        return Content(len(data), blob=self._blobs.put(data), is_held=True)

    def discard(self, content: Content) -> None:
        """Release the blob of a content that no version will have."""
        if content.is_held and content.blob is not None:
            content.is_held = False
            self._blobs.release(content.blob)

    def data(self, content: Content) -> bytes:
        """Return the bytes of a content. Raises `StateError` if its blob is missing or damaged."""
        if content.data is not None:
            return content.data
        if content.blob is None:
            raise KernelBug("a content is neither in a row nor in a blob")
        return self._blobs.get(content.blob)

    # --- in a transaction --------------------------------------------------------------------

    def encrypted(self, content: Content | None, about: tuple[str, ...]) -> bytes | None:
        """Encrypt a small content for the row of its version; None if it is not in the row."""
        if content is None or content.data is None:
            return None
        return self._cipher.encrypt(content.data, "file", *about)

    def decrypted(
        self, size: int, stored: Any, blob: Any, about: tuple[str, ...]
    ) -> Content | None:
        """Decode the content in the row of a version; None: the version is a deletion."""
        if blob is not None:
            return Content(size, blob=str(blob))
        return (
            None if stored is None else Content(size, self._cipher.decrypt(stored, "file", *about))
        )

    def link(
        self, connection: Connection, content: Content | None, *, is_moved: bool = False
    ) -> None:
        """Count one more version that refers to the blob of a content.

        Raises `StateError` if an older version's blob is damaged. With `is_moved`, the blob is
        not verified: a move reads nothing, and keeps the blob of the version before it.
        """
        if content is None or content.blob is None:
            return
        if content.is_held:
            content.is_held = False
            self._blobs.link(connection, content.blob)
        else:
            self._blobs.relink(connection, content.blob, is_verified=is_moved)

    def unlink(self, connection: Connection, blob: Any) -> None:
        """Count one version less that refers to a blob, if there is one."""
        if blob is not None:
            self._blobs.unlink(connection, str(blob))
