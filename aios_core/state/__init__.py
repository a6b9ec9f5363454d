"""The state directory: everything that outlives a kernel.

`database` is SQLite with group commit, `blobs` stores large values as files, `encryption` encrypts
them, `directory_lock` and `evidence` make sure that the directory is complete and unshared.
"""

from aios_core.state.blobs import BlobStore
from aios_core.state.database import CommitHook, Connection, Database
from aios_core.state.encryption import Cipher, NullCipher, cipher_for, read_key
from aios_core.state.state import MEMORY, State, StateOpener

__all__ = [
    "MEMORY",
    "BlobStore",
    "Cipher",
    "CommitHook",
    "Connection",
    "Database",
    "NullCipher",
    "State",
    "StateOpener",
    "cipher_for",
    "read_key",
]
