"""The state directory: everything that outlives a kernel.

    state                  `State`: open the directory for one kernel at a time
    database               one SQLite file with group commit, which memory and storage share
    blobs                  large values as files named by their hash; `blob_accounts` compares
                           them with the database at the start
    encryption             encrypt values with AES-256-GCM, or store them as they are
    directory_lock         refuse a second process, or another database
    completeness           find out whether files of the directory are missing
    acceptance             continue with an incomplete directory if a person decides so
    directory_permissions  make the directory private to its user
    disk_full              the error text for a full disk

What the tables hold is defined by memory, storage, tools and access.
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
