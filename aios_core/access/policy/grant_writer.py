"""Change grants: each change is made durable, then put in force, one after the other.

A change that has started is completed even if its caller is cancelled, so that the grants
in force always equal the stored ones. Belongs to the kernel's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aios_core.access.policy import grants as grant_book
from aios_core.access.policy.privileges import Privileges
from aios_core.errors import NoSuchObject
from aios_core.grants import Grant
from aios_core.labels import labels_of_all
from aios_core.permissions import Resource
from aios_core.state import Connection, StateOpener


class GrantWriter:
    """Writes changes of grants to the database and then to the index of grants in force."""

    def __init__(self, state: StateOpener, privileges: Privileges) -> None:
        self._state = state
        self._privileges = privileges
        self._changes = asyncio.Lock()  # guards what is stored and what is in force
        self._in_flight: set[asyncio.Task[Any]] = set()
        self.is_loaded = False
        state.add_migrations("grants", grant_book.SCHEMA)

    async def load(self) -> None:
        """Read all grants, once. Raises `StateError`; the next call tries again."""
        async with self._changes:
            if self.is_loaded:
                return
            state = await self._state.open()
            for grant in await state.database.aread(grant_book.load):
                self._privileges.grants.put(grant)
            self._privileges.invalidate()
            self.is_loaded = True

    async def put(self, grant: Grant) -> None:
        """Store a grant and put it in force."""
        await self.load()

        def remember() -> None:
            self._privileges.grants.put(grant)

        await self._change(lambda connection: grant_book.store(connection, grant), remember)

    async def revoke(self, resource: Resource, to: str, giver: str) -> None:
        """Revoke what `to` was granted, and what depends on it. Raises `NoSuchObject`."""
        await self.load()
        grants = self._privileges.grants
        revoked = grants.revoked_by(resource, to, giver)
        if not revoked:
            known = [grant for grant in grants if grant.resource.owner == resource.owner]
            refusal = NoSuchObject("grant", f"on {resource} to {to}", known)
            raise refusal.with_labels(labels_of_all(known))
        await self._change(
            lambda connection: grant_book.erase(connection, revoked),
            lambda: grants.remove(revoked),
        )

    async def settled(self) -> None:
        """Wait for changes in flight."""
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _change(
        self, write: Callable[[Connection], None], remember: Callable[[], None]
    ) -> None:
        async def carry_out() -> None:
            async with self._changes:
                state = await self._state.open()
                await state.database.awrite(write)
                remember()
                if orphans := self._privileges.invalidate():
                    await state.database.awrite(lambda c: grant_book.erase(c, orphans))
                    self._privileges.grants.remove(orphans)

        task = asyncio.ensure_future(carry_out())
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        await asyncio.shield(task)
