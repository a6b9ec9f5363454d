"""Where the bytes of a version are: sealed in its row if they are few, else in a blob.

A small version costs no file of its own and shares the commit of its row; a large
one is compressed, and stored once however many versions have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aios_core.errors import KernelBug
from aios_core.state import BlobStore, Connection, Vault

INLINE_BYTES: Final = 16 * 1024


@dataclass(slots=True, eq=False)
class Content:
    """The content of a version: `data` if it is small, the address of a `blob` otherwise."""

    size: int
    data: bytes | None = None
    blob: str | None = None
    is_held: bool = False  # the blob was put, and no row refers to it yet

    def is_same(self, other: Content) -> bool:
        """Return whether both are the same bytes."""
        return (self.size, self.data, self.blob) == (other.size, other.data, other.blob)


class Contents:
    """Puts contents in and gets them out. Any thread may call it."""

    def __init__(self, vault: Vault, blobs: BlobStore) -> None:
        self._vault = vault
        self._blobs = blobs

    def store(self, data: bytes) -> Content:
        """Store what is large, durably; `discard` the content if no row comes to refer to it."""
        if len(data) <= INLINE_BYTES:
            return Content(len(data), data)
        return Content(len(data), blob=self._blobs.put(data), is_held=True)

    def discard(self, content: Content) -> None:
        """The content is not going to be a version's."""
        if content.is_held and content.blob is not None:
            content.is_held = False
            self._blobs.release(content.blob)

    def data(self, content: Content) -> bytes:
        """The bytes. Raises `StateError` if the blob is missing or damaged."""
        if content.data is not None:
            return content.data
        if content.blob is None:
            raise KernelBug("a content is neither in a row nor in a blob")
        return self._blobs.get(content.blob)

    # --- in a transaction --------------------------------------------------------------------

    def sealed(self, content: Content | None, about: tuple[str, ...]) -> bytes | None:
        """What goes into the row of a version."""
        if content is None or content.data is None:
            return None
        return self._vault.seal(content.data, "file", *about)

    def opened(self, size: int, stored: Any, blob: Any, about: tuple[str, ...]) -> Content | None:
        """The content that the row of a version has; None: the version is a deletion."""
        if blob is not None:
            return Content(size, blob=str(blob))
        return None if stored is None else Content(size, self._vault.open(stored, "file", *about))

    def link(
        self, connection: Connection, content: Content | None, *, is_moved: bool = False
    ) -> None:
        """One more version has the content.

        Raises `StateError` if it is an older version's and damaged; one that `is_moved` promises
        no more than the version before did, and is not looked at.
        """
        if content is None or content.blob is None:
            return
        if content.is_held:
            content.is_held = False
            self._blobs.link(connection, content.blob)
        else:
            self._blobs.link_again(connection, content.blob, is_verified=is_moved)

    def unlink(self, connection: Connection, blob: Any) -> None:
        """One version less has the blob, if it had one."""
        if blob is not None:
            self._blobs.unlink(connection, str(blob))
