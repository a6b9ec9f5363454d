"""The state directory: what agents keep beyond the life of a kernel."""

from aios_core.state.blobs import BlobStore
from aios_core.state.database import Companion, Connection, Database
from aios_core.state.state import MEMORY, State, StateOpener
from aios_core.state.vault import PlainVault, Vault, read_key, vault_of

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
