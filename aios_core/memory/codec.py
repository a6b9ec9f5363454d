"""Encode values for the database: compressed with zstd if that helps, then encrypted."""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from aios_core.errors import StateError
from aios_core.state import Cipher

LEVEL: Final = 1  # pages are small and written often
_LEAST: Final = 64  # bytes; less is not worth compressing
_PLAIN, _ZSTD = b"\0", b"\1"  # the first byte of a packed value


class Codec:
    """Encodes values for the database. Thread-safe."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher
        self._local = threading.local()  # a compressor serves one thread at a time

    def pack(self, data: bytes, *about: str) -> bytes:
        """Encode a value. `about` names its place, and binds the ciphertext to it."""
        return self._cipher.encrypt(self._compressed(data), "memory", *about)

    def unpack(self, stored: bytes, *about: str) -> bytes:
        """Decode a value. Raises `StateError` if it is damaged or stored in another place."""
        plain = self._cipher.decrypt(stored, "memory", *about)
        if plain[:1] == _PLAIN:
            return plain[1:]
        try:
            return zstandard.ZstdDecompressor().decompress(plain[1:])
        except zstandard.ZstdError as exc:
            what = "/".join(about)
            raise StateError(f"the memory of {what} is damaged; restore it from a backup") from exc

    def _compressed(self, data: bytes) -> bytes:
        if len(data) < _LEAST:
            return _PLAIN + data
        compressor: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            compressor = self._local.compressor = zstandard.ZstdCompressor(level=LEVEL)
        small = compressor.compress(data)
        return _ZSTD + small if len(small) < len(data) else _PLAIN + data
