"""Any sequence of operations, with restarts, against a dictionary of lists of versions."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aios_core.config import StorageConfig
from aios_core.errors import Conflict, NoSuchObject
from aios_core.state import Connection, State
from aios_core.storage.content_store import INLINE_BYTES
from aios_core.storage.files import FileTable
from aios_core.storage.records import Stamp
from aios_core.storage.schema import COMPONENT, SCHEMA
from aios_core.storage.tree_snapshots import TreeTable

ME = "default/me"
STAMP = Stamp(ME, 0.0)
PATHS = st.sampled_from(["/a", "/b", "/d/a", "/d/b", "/d/e/a"])
DATA = st.one_of(
    st.binary(max_size=20),
    st.binary(min_size=4, max_size=4).map(lambda seed: seed * (INLINE_BYTES // 4 + 1)),
)

Versions = list[bytes | None]  # None: deleted


class Files(RuleBasedStateMachine):
    """The model: path -> all versions that a file ever had."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.model: dict[str, Versions] = {}
        self.saved: dict[str, bytes] | None = None

    @initialize()
    def open(self) -> None:
        self.state = State.open(self.directory)
        self.state.database.migrate(COMPONENT, SCHEMA)
        limits = StorageConfig(max_versions=1_000)
        self.table = FileTable(self.state.cipher, self.state.blobs, limits)
        self.trees = TreeTable(self.table, 10)

    def teardown(self) -> None:
        self.state.close()
        shutil.rmtree(self.directory)

    def live(self) -> dict[str, bytes]:
        return {path: v[-1] for path, v in self.model.items() if v[-1] is not None}

    def blocked(self, path: str) -> bool:
        return any(p.startswith(path + "/") or path.startswith(p + "/") for p in self.live())

    @rule(path=PATHS, data=DATA)
    def write(self, path: str, data: bytes) -> None:
        content = self.table.contents.store(data)
        is_blocked = path not in self.live() and self.blocked(path)
        try:
            self.change(lambda c: self.table.write(c, ME, path, content, STAMP))
        except Conflict:
            assert is_blocked
        else:
            assert not is_blocked
            self.model.setdefault(path, []).append(data)
        finally:
            self.table.contents.discard(content)

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        try:
            self.change(lambda c: self.table.delete(c, ME, path, STAMP))
        except NoSuchObject:
            assert path not in self.live()
        else:
            self.model[path].append(None)

    @rule(path=PATHS, version=st.integers(1, 5))
    def rollback(self, path: str, version: int) -> None:
        versions = self.model.get(path, [])
        known = version <= len(versions) and versions[version - 1] is not None
        free = path in self.live() or not self.blocked(path)
        try:
            self.change(lambda c: self.table.rollback(c, ME, path, version, STAMP))
        except NoSuchObject:
            assert not known
        except Conflict:
            assert not free
        else:
            versions.append(versions[version - 1])

    @rule(path=PATHS, to=PATHS)
    def move(self, path: str, to: str) -> None:
        if path not in self.live():
            return
        free = to not in self.live() and not self.blocked(to)
        try:
            self.change(lambda c: self.table.move(c, ME, path, to, STAMP))
        except Conflict:
            assert not free
            return
        assert free
        if to in self.model:
            number = 1
            while f"{to}~{number}" in self.model:
                number += 1
            self.model[f"{to}~{number}"] = self.model.pop(to)
        self.model[to] = self.model.pop(path)
        self.model[to].append(self.model[to][-1])

    @rule(path=PATHS)
    def purge(self, path: str) -> None:
        try:
            self.change(lambda c: self.table.purge(c, ME, path, None))
        except (Conflict, NoSuchObject):
            assert path in self.live() or path not in self.model
        else:
            del self.model[path]
            self.saved = None  # the snapshot may have held it, under any path
        self.state.blobs.collect(self.state.database)

    @rule()
    def save(self) -> None:
        if self.saved is None:
            self.change(lambda c: c.execute("DELETE FROM file_trees"))
            self.change(lambda c: self.trees.save(c, ME, "/", "tree", 0.0))
            self.saved = self.live()

    @rule()
    def restore(self) -> None:
        if self.saved is None:
            return
        for path, data in self.live().items():
            if path not in self.saved:
                self.model[path].append(None)
            elif data != self.saved[path]:
                self.model[path].append(self.saved[path])
        for path, data in self.saved.items():
            if self.model.setdefault(path, [None] if path not in self.model else [])[-1] is None:
                self.model[path].append(data)
        for path, versions in self.model.items():
            if versions[0] is None:  # a new file: it had no version before
                self.model[path] = versions[1:]
        self.change(lambda c: self.trees.restore(c, ME, "/", "tree", STAMP))

    @rule()
    def restart(self) -> None:
        self.state.close()
        self.open()

    @invariant()
    def all_versions_are_what_they_were(self) -> None:
        def look(connection: Connection) -> None:
            self.table.check(connection)
            listed = self.table.listing(connection, ME, "/", deleted=False, after=None, limit=1_000)
            assert [file.path for file in listed] == sorted(self.live())
            for path, versions in self.model.items():
                for number, data in enumerate(versions, 1):
                    if data is not None:
                        content = self.table.read(connection, ME, path, number)[1]
                        assert self.table.contents.data(content) == data

        if hasattr(self, "state"):
            self.state.database.read(look)

    def change(self, work: object) -> None:
        self.state.database.write(work)  # type: ignore[arg-type]


Files.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestFiles = Files.TestCase
