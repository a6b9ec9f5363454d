"""Index agents' files for semantic search, in the background (a `SemanticIndex`).

The indexer follows the log of file changes with a durable cursor. It starts at the first
search; from then on it runs in the background, in later kernels too. A search first waits
until the changes that its caller has seen are indexed; if indexing fails, because the
embedder fails, the search raises that error. A text that the embedder refuses is skipped.

Guarantee: every hit belongs to the requested owner and is below the requested path. The
rows in the database decide that, even if an index returns a wrong vector.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from aios_core.config import RetrievalConfig
from aios_core.errors import BackendError, InvalidRequest, KernelBug, KernelClosed, KernelError
from aios_core.process import AgentProcess
from aios_core.retrieval.chunking import chunk_text, decode_text
from aios_core.retrieval.embedding import BilledEmbedder, Vector
from aios_core.retrieval.vector_search import VectorSearch
from aios_core.state import State, StateOpener
from aios_core.storage.file_index import (
    COMPONENT,
    SCHEMA,
    FileUpdate,
    apply,
    begin,
    exists,
    hits,
    index_name,
    indexed_chunks,
    vectors_below,
)
from aios_core.storage.paths import ROOT
from aios_core.storage.semantic_index import FileFeed, FileState, Hit
from aios_core.untrusted.third_party import describe, detach

log = logging.getLogger(__name__)

_STEP_FILES: Final = 64  # files that one commit indexes at most
_STEP_BYTES: Final = 8 << 20  # bytes of files that one commit indexes; at least one file
_STEP_TEXTS: Final = 256  # chunks that one call embeds
_FIRST_PAUSE_S: Final = 1.0  # after a failure without `retry_after_s`; doubles each time
_LAST_PAUSE_S: Final = 60.0


class FileIndexer:
    """Indexes agents' files and searches them. Used on the kernel's loop only.

    Args:
        state: opens the state directory at the first search.
        embedder: embeds chunks (at no agent's expense) and queries.
        vector_search: searches the vectors of files.
        config: sizes of chunks and files.
    """

    def __init__(
        self,
        state: StateOpener,
        embedder: BilledEmbedder,
        vector_search: VectorSearch,
        config: RetrievalConfig | None = None,
    ) -> None:
        self._state = state
        self._embedder = embedder
        self._vector_search = vector_search
        self._config = config or RetrievalConfig()
        self._feed: FileFeed | None = None
        self._seq: int | None = None  # the cursor; None: not read yet
        self._newest = 0  # the last known change
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # for a change to be indexed
        self._is_closed = False
        state.add_migrations(COMPONENT, SCHEMA)

    def __repr__(self) -> str:
        return f"<FileIndexer {self._made_by}: {self._seq} of {self._newest} changes>"

    async def start(self, feed: FileFeed) -> None:
        self._feed = feed

    def notify(self, seq: int) -> None:
        self._newest = max(self._newest, seq)
        self._follow()

    async def retrieve(
        self, process: AgentProcess, owner: str, query: str, *, k: int, path: str, seq: int
    ) -> Sequence[Hit]:
        """Return the best hits (see `SemanticIndex`). Raises the embedder's errors."""
        state = await self._state.open()
        await self._reach(state, seq)
        vector = (await self._embedder.embed_for(process, [query]))[0]
        among = None
        if path != ROOT:
            among = await state.database.aread(lambda c: vectors_below(c, owner, path))
        found = await self._vector_search.nearest(index_name(owner), vector, k, among=among)
        near = [hit for hit in found if hit[1] > 0]
        return await state.database.aread(lambda c: hits(c, state.cipher, owner, path, near))

    async def close(self) -> None:
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._answer(KernelClosed("the kernel is closed"))

    def check(self) -> None:
        if self._waiting and (self._task is None or self._task.done()):
            raise KernelBug(f"{len(self._waiting)} searches wait, but the indexer does not run")

    # --- following the log -------------------------------------------------------------------

    @property
    def _made_by(self) -> str:
        """The embedder and chunk settings; vectors made with others cannot be compared."""
        config = self._config
        return f"{self._embedder.name} {config.chunk_chars}/{config.overlap_chars}/1"

    async def _reach(self, state: State, seq: int) -> None:
        """Wait until a change is indexed; create the index if necessary."""
        if self._seq is None:
            begun = await state.database.awrite(lambda c: begin(c, self._made_by))
            self._seq = begun if self._seq is None else self._seq
        self._newest = max(self._newest, seq)
        if self._seq >= seq:
            return
        arrived = asyncio.get_running_loop().create_future()
        waiter = (seq, arrived)
        self._waiting.append(waiter)
        self._follow()
        try:
            await arrived
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _follow(self) -> None:
        self._wake.set()
        if self._task is None and not self._is_closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="file-index")

    async def _run(self) -> None:
        """Index changes as they come, until cancelled."""
        pause_s: float | None = None
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)
            self._wake.clear()
            try:
                await self._catch_up()
                pause_s = None
            except KernelError as exc:
                pause_s = self._failed(exc, pause_s)
            except Exception as exc:  # noqa: BLE001 - waiting searches must get the error
                error = BackendError(f"indexing files failed: {describe(exc)}")
                error.__cause__ = detach(exc)
                pause_s = self._failed(error, pause_s)

    def _failed(self, error: KernelError, last_pause_s: float | None) -> float:
        """Fail the waiting searches. Returns the seconds until the next try without a search."""
        log.warning("indexing files failed and will be tried again: %s", error)
        self._answer(error)
        advised: float | None = getattr(error, "retry_after_s", None)
        return advised or min((last_pause_s or _FIRST_PAUSE_S / 2) * 2, _LAST_PAUSE_S)

    async def _catch_up(self) -> None:
        state = await self._state.open()
        if self._seq is None:
            if not await state.database.aread(exists):
                return  # no search has ever started the index
            self._seq = await state.database.awrite(lambda c: begin(c, self._made_by))
        while self._seq < self._newest:
            known = self._newest  # committed before the step reads the feed
            if not await self._step(state):
                self._seq = max(self._seq, known)  # later changes superseded these
            self._answer(None)

    def _answer(self, error: KernelError | None) -> None:
        """Wake the searches that wait for changes indexed by now; with an error, fail all."""
        waiting = []
        for seq, arrived in self._waiting:
            if arrived.done():
                continue
            if error is not None:
                arrived.set_exception(error)
            elif self._seq is not None and seq <= self._seq:
                arrived.set_result(None)
            else:
                waiting.append((seq, arrived))
        self._waiting = waiting

    async def _step(self, state: State) -> bool:
        """Index the next changes in one commit. Returns False if there are none."""
        if self._feed is None or self._seq is None:
            raise KernelBug("the file index was not started")
        states = _first_few(await self._feed.changed(self._seq, _STEP_FILES))
        if not states:
            return False
        updates = [update for one in states if (update := await self._update(state, one))]
        await self._embed_new(updates)
        seq = states[-1].seq
        applied = await state.database.awrite(lambda c: apply(c, state.cipher, updates, seq))
        self._seq = seq
        for change in applied:
            await self._vector_search.changed(
                index_name(change.owner), change.added, change.removed
            )
        return True

    async def _update(self, state: State, file: FileState) -> FileUpdate | None:
        """Return the update for a file, without vectors; None if a newer state follows."""
        if not file.is_live or file.path is None or self._feed is None:
            return FileUpdate(file)
        data = await self._feed.content(file)
        if data is None:
            return None  # the file changed again, and that change comes later in the feed
        config = self._config
        text = await asyncio.to_thread(decode_text, data, config.max_file_chars)
        if text is None:
            return FileUpdate(file)
        chunks = await asyncio.to_thread(chunk_text, text, config.chunk_chars, config.overlap_chars)
        have = await state.database.aread(lambda c: indexed_chunks(c, state.cipher, file.file))
        new: dict[str, Vector] = {chunk.text: () for chunk in chunks if chunk.text not in have}
        return FileUpdate(file, chunks, new)

    async def _embed_new(self, updates: Sequence[FileUpdate]) -> None:
        """Embed the new texts of updates; drop texts that the embedder refuses."""
        texts = list(dict.fromkeys(text for update in updates for text in update.vectors))
        vectors: dict[str, Vector] = {}
        for start in range(0, len(texts), _STEP_TEXTS):
            vectors.update(await self._embedded(texts[start : start + _STEP_TEXTS]))
        for update in updates:
            update.vectors = {text: vectors[text] for text in update.vectors if text in vectors}

    async def _embedded(self, texts: list[str]) -> dict[str, Vector]:
        try:
            return dict(zip(texts, await self._embedder.embed(texts), strict=True))
        except InvalidRequest as exc:
            if len(texts) == 1:
                log.warning("a chunk of a file is not indexed: %s", exc)
                return {}
            # One text is refused; halving the batch finds it in a logarithmic number of calls.
            half = len(texts) // 2
            return await self._embedded(texts[:half]) | await self._embedded(texts[half:])


def _first_few(states: Sequence[FileState]) -> Sequence[FileState]:
    """Return as many of the states as one step indexes."""
    num_bytes = 0
    for position, state in enumerate(states):
        num_bytes += state.size if state.is_live else 0
        if position and num_bytes > _STEP_BYTES:
            return states[:position]
    return states
