"""Encryption at rest: AES-256-GCM over values, or nothing at all.

The owner and key of a value are associated data: a value that was moved to another place
cannot be decrypted. Names are not encrypted, values are.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from aios_core.errors import ConfigError, StateError
from aios_core.redaction import learn

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Cipher(Protocol):
    """Encrypts and decrypts stored values."""

    is_encrypting: bool

    def encrypt(self, plain: bytes, *about: str) -> bytes:
        """Encrypt a value; `about` names what it belongs to."""

    def decrypt(self, encrypted: bytes, *about: str) -> bytes:
        """Decrypt a value. Raises `StateError` if it was altered, or belongs elsewhere."""


class NullCipher:
    """Stores values unencrypted."""

    is_encrypting = False

    def encrypt(self, plain: bytes, *about: str) -> bytes:  # noqa: ARG002 - as every `Cipher`
        return plain

    def decrypt(self, encrypted: bytes, *about: str) -> bytes:  # noqa: ARG002 - as every `Cipher`
        return encrypted


class AesGcmCipher:
    """AES-256-GCM with a random 96-bit nonce before each value (NIST SP 800-38D)."""

    is_encrypting = True

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - if needed

        self._aead = AESGCM(key)

    def encrypt(self, plain: bytes, *about: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, _associated(about))

    def decrypt(self, encrypted: bytes, *about: str) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - if needed

        nonce, body = encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, body, _associated(about))
        except (InvalidTag, ValueError) as exc:
            what = "/".join(about)
            raise StateError(
                f"the stored value of {what} cannot be decrypted: it was altered, or "
                "state.encryption_key names another key"
            ) from exc


def cipher_for(key: bytes | None) -> Cipher:
    """Build the cipher for a key of 32 bytes; without a key values stay unencrypted."""
    return NullCipher() if key is None else AesGcmCipher(key)


def read_key(setting: str | None, environ: Mapping[str, str] | None = None) -> bytes | None:
    """Read the key that `state.encryption_key` names: ``env:NAME`` or the path of a file.

    The key is 32 bytes: as they are, as 64 hexadecimal digits, or in base64.
    Raises `ConfigError`.
    """
    if setting is None:
        return None
    key, allowed = "state.encryption_key", "env:NAME or a file; 32 bytes, raw, in hex or in base64"
    if setting.startswith("env:"):
        environ = os.environ if environ is None else environ
        name = setting.removeprefix("env:")
        if not environ.get(name):
            raise ConfigError(key, setting, f"{allowed}; the variable {name} is not set")
        raw = environ[name].encode()
    else:
        try:
            raw = Path(setting).expanduser().read_bytes()
        except (OSError, RuntimeError, ValueError) as exc:  # no such user, a NUL in the name
            reason = getattr(exc, "strerror", None) or str(exc)
            raise ConfigError(key, setting, f"{allowed}; {reason}") from None  # it may be the key
    learn(raw.decode("ascii", errors="ignore"))
    for decode in (lambda text: text, binascii.unhexlify, base64.b64decode):
        for text in (raw, raw.strip()):
            try:
                plain = decode(text)
            except (binascii.Error, ValueError):
                continue
            if len(plain) == KEY_BYTES:
                return plain
    raise ConfigError(key, f"{setting} with {len(raw)} bytes", allowed)


def _associated(about: tuple[str, ...]) -> bytes:
    """Encode parts with their lengths, so that no two lists have equal encodings."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in map(str.encode, about))
