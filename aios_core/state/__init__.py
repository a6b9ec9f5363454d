"""The state directory: everything that outlives a kernel.

`database` is SQLite with group commit, `blobs` stores large values as files, `vault` encrypts
them, `directory_lock` and `evidence` make sure that the directory is complete and unshared.
"""

from aios_core.state.blobs import BlobStore
from aios_core.state.database import Companion, Connection, Database
from aios_core.state.encryption import PlainVault, Vault, read_key, vault_of
from aios_core.state.state import MEMORY, State, StateOpener

__all__ = [
    "MEMORY",
    "BlobStore",
    "Companion",
    "Connection",
    "Database",
    "PlainVault",
    "State",
    "StateOpener",
    "Vault",
    "read_key",
    "vault_of",
]
