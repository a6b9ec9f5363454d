"""The index over files follows every change, finds only its owner's, and survives failures."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aios_core import Kernel, KernelConfig
from aios_core.config import RetrievalConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import (
    BackendError,
    ConfigError,
    InvalidRequest,
    QuotaExceeded,
    RateLimited,
)
from aios_core.retrieval.chroma import is_installed
from aios_core.retrieval.embedding import Embed
from aios_core.retrieval.index_choice import IndexSelector
from aios_core.retrieval.nearest import ExactIndex, Found
from aios_core.storage.collections.manager import Collections
from aios_core.storage.collections.requests import (
    CollectionItem,
    CollectionPut,
    CollectionSearch,
)
from tests.retrieval.rig import Counting, Files, rigged

PATIENCE_S = 30.0
needs_chroma = pytest.mark.skipif(not is_installed(), reason="chromadb is not installed")
CHROMA = RetrievalConfig(index="chroma")


def all_bytes(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())


# --- what is found -------------------------------------------------------------------------------


async def test_an_agent_finds_what_it_wrote_a_moment_ago() -> None:
    async with rigged() as rig:
        rig.files.write("default/a", "/tea.txt", "the kettle is in the kitchen")
        rig.files.write("default/a", "/dog.txt", "the dog sleeps in the garden")

        (first, *_) = await rig.find("default/a", "kitchen kettle")

        assert (first.path, first.version, first.start) == ("/tea.txt", 1, 0)
        assert first.excerpt == "the kettle is in the kitchen"
        assert 0 < first.score <= 1


async def test_no_agent_finds_the_files_of_another() -> None:
    async with rigged() as rig:
        rig.files.write("default/a", "/secret.txt", "the kettle is in the kitchen")
        rig.files.write("default/b", "/own.txt", "a dog")

        assert await rig.paths("default/b", "the kettle is in the kitchen") in ([], ["/own.txt"])
        assert await rig.paths("default/c", "the kettle is in the kitchen") == []


async def test_an_index_that_answers_with_what_is_anothers_gives_nothing_away() -> None:
    class Liar(ExactIndex):
        def nearest(self, *_: object) -> list[Found]:
            return [(n, 1.0) for other in self._matrices.values() for n in other.places]

    async with rigged(indexes=IndexSelector(Liar())) as rig:
        rig.files.write("default/a", "/secret.txt", "the kettle")
        rig.files.write("default/b", "/own.txt", "a dog")
        await rig.find("default/a", "kettle")

        assert await rig.paths("default/b", "kettle") == ["/own.txt"]
        assert await rig.paths("default/a", "kettle", path="/sub") == []


async def test_a_search_below_a_path_finds_nothing_beside_it() -> None:
    async with rigged() as rig:
        for path in ("/a/one", "/a/b/two", "/ab/three", "/a0", "/a"):
            rig.files.write("x/y", path, f"kettle {path}")

        assert sorted(await rig.paths("x/y", "kettle", path="/a")) == ["/a", "/a/b/two", "/a/one"]
        assert await rig.paths("x/y", "kettle", path="/a/one") == ["/a/one"]


async def test_a_long_file_is_found_by_its_parts() -> None:
    async with rigged() as rig:
        text = " ".join(f"filler{n}" for n in range(100)) + " kettle kitchen " + "tail " * 100
        rig.files.write("x/y", "/long", text)

        (first, *_) = await rig.find("x/y", "kettle kitchen")

        assert "kettle kitchen" in first.excerpt
        assert text[first.start :].startswith(first.excerpt)


async def test_binary_files_are_not_found() -> None:
    async with rigged() as rig:
        rig.files.write("x/y", "/picture", b"kettle\0\0\0")

        assert await rig.find("x/y", "kettle") == []


async def test_labels_come_with_what_is_found() -> None:
    async with rigged() as rig:
        rig.files.write("x/y", "/mail", "kettle", labels=frozenset({"web", "mail"}))

        (hit,) = await rig.find("x/y", "kettle")

        assert hit.labels == {"web", "mail"}


# --- in step -------------------------------------------------------------------------------------


async def test_a_deleted_file_is_not_found_and_a_file_brought_back_is() -> None:
    async with rigged() as rig:
        file = rig.files.write("x/y", "/tea", "kettle")
        await rig.find("x/y", "kettle")

        rig.files.delete(file)
        assert await rig.paths("x/y", "kettle") == []

        rig.files.note(file, is_live=True)
        assert await rig.paths("x/y", "kettle") == ["/tea"]


async def test_a_search_waits_for_all_that_was_written_before_it() -> None:
    async with rigged() as rig:
        for number in range(200):  # several commits of the index
            rig.files.write("x/y", f"/{number}", f"dog number {number}")
        rig.files.write("x/y", "/last", "kettle")

        assert await rig.paths("x/y", "kettle", k=1) == ["/last"]


async def test_a_purged_file_leaves_nothing_in_the_tables() -> None:
    async with rigged() as rig:
        file = rig.files.write("x/y", "/tea", "kettle")
        await rig.find("x/y", "kettle")

        rig.files.note(file, is_live=False, path=None)
        await rig.find("x/y", "kettle")

        state = await rig.opener.open()
        for table in ("vectors", "indexed_chunks", "indexed_files"):
            query = f"SELECT count(*) FROM {table}"  # noqa: S608
            assert state.database.read(lambda c, q=query: c.execute(q).fetchone()) == (0,)


async def test_a_new_version_takes_the_place_of_the_old_one() -> None:
    async with rigged() as rig:
        rig.files.write("x/y", "/tea", "kettle")
        await rig.find("x/y", "kettle")
        rig.files.write("x/y", "/tea", "a dog in the garden")

        (hit,) = await rig.find("x/y", "dog")

        assert (hit.version, hit.excerpt) == (2, "a dog in the garden")
        assert await rig.find("x/y", "kettle") == []


async def test_moving_a_file_embeds_nothing() -> None:
    async with rigged() as rig:
        file = rig.files.write("x/y", "/old", "kettle")
        await rig.find("x/y", "kettle")
        rig.files.move(file, "/new")

        assert await rig.paths("x/y", "kettle") == ["/new"]
        assert rig.embedder.texts == ["kettle"] * 3  # the file once, and two queries


async def test_adding_to_a_long_file_embeds_its_end_only() -> None:
    async with rigged() as rig:
        text = " ".join(f"word{n}" for n in range(500))
        rig.files.write("x/y", "/log", text)
        await rig.find("x/y", "word1")
        before = len(rig.embedder.texts)
        rig.files.write("x/y", "/log", text + " and a kettle")

        await rig.find("x/y", "kettle")

        assert len(rig.embedder.texts) - before <= 3  # one or two parts, and the query


async def test_nothing_is_opened_or_embedded_until_somebody_searches(tmp_path: Path) -> None:
    async with rigged(tmp_path / "state") as rig:
        rig.files.write("x/y", "/tea", "kettle")
        rig.index.notify(rig.files.seq)
        await rig.opener.open()
        await asyncio.sleep(0.05)

        assert rig.embedder.texts == []


async def test_once_somebody_has_searched_changes_are_taken_in_without_being_asked() -> None:
    async with rigged() as rig:
        await rig.find("x/y", "kettle")
        rig.files.write("x/y", "/tea", "kettle on")
        rig.index.notify(rig.files.seq)

        async with asyncio.timeout(PATIENCE_S):
            await rig.embedder.has_seen("kettle on")


# --- bad days ------------------------------------------------------------------------------------


async def test_a_later_kernel_continues_where_the_last_one_stopped(tmp_path: Path) -> None:
    files, embedder = Files(), Counting()
    async with rigged(tmp_path, files=files, embedder=embedder) as rig:
        files.write("x/y", "/tea", "kettle on")
        await rig.find("x/y", "kettle")
    files.write("x/y", "/dog", "a dog")  # committed, and then the kernel was killed
    async with rigged(tmp_path, files=files, embedder=embedder) as rig:
        assert await rig.paths("x/y", "dog") == ["/dog"]
        assert await rig.paths("x/y", "kettle") == ["/tea"]

    assert embedder.texts.count("kettle on") == 1


async def test_an_embedder_that_fails_is_reported_and_tried_again() -> None:
    async with rigged() as rig:
        rig.files.write("x/y", "/tea", "kettle")
        rig.embedder.failures = [RateLimited("too much", 3_600.0), BackendError("broken")]

        with pytest.raises(RateLimited):
            await rig.find("x/y", "kettle")
        with pytest.raises(BackendError):
            await rig.find("x/y", "kettle")

        assert await rig.paths("x/y", "kettle") == ["/tea"]


async def test_a_text_that_the_embedder_refuses_is_left_out_alone() -> None:
    async with rigged() as rig:
        rig.embedder.refuses = lambda text: "poison" in text
        rig.embedder.refusal = InvalidRequest("too long")
        rig.files.write("x/y", "/bad", "poison kettle")
        rig.files.write("x/y", "/good", "kettle")

        assert await rig.paths("x/y", "kettle") == ["/good"]


async def test_another_embedder_starts_a_new_index(tmp_path: Path) -> None:
    files = Files()
    async with rigged(tmp_path, files=files) as rig:
        files.write("x/y", "/tea", "kettle")
        await rig.find("x/y", "kettle")
    other = Counting("counting-2")
    other.dimensions = 64
    async with rigged(tmp_path, files=files, embedder=other) as rig:
        assert await rig.paths("x/y", "kettle") == ["/tea"]


async def test_a_file_that_changes_while_it_is_taken_in_is_found_as_it_is_then() -> None:
    class Busy(Files):
        async def content(self, state):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            if self.seq == 1:
                self.write("x/y", "/tea", "a dog")
            return await Files.content(self, state)

    async with rigged(files=Busy()) as rig:
        rig.files.write("x/y", "/tea", "kettle")
        await rig.find("x/y", "kettle")

        assert [hit.excerpt for hit in await rig.find("x/y", "dog")] == ["a dog"]


async def test_a_cancelled_search_leaves_no_waiter() -> None:
    async with rigged() as rig:
        rig.files.write("x/y", "/tea", "kettle")
        search = asyncio.create_task(rig.find("x/y", "kettle"))
        await asyncio.sleep(0)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search

        assert rig.index._waiting == []
        assert await rig.paths("x/y", "kettle") == ["/tea"]


async def test_an_index_that_fails_is_replaced_and_used_again() -> None:
    class Moody(ExactIndex):
        is_ill = True

        def nearest(self, *arguments: object) -> list[Found]:
            if self.is_ill:
                raise BackendError("ill")
            return ExactIndex.nearest(self, *arguments)  # type: ignore[arg-type]

    moody = Moody()
    async with rigged(indexes=IndexSelector(moody)) as rig:
        rig.files.write("x/y", "/tea", "kettle")
        assert await rig.paths("x/y", "kettle") == ["/tea"]
        moody.is_ill = False
        rig.files.write("x/y", "/tea", "kettle kettle")

        assert [hit.version for hit in await rig.find("x/y", "kettle")] == [2]


async def test_a_space_that_grows_gets_the_index_for_large_ones() -> None:
    small, large = ExactIndex(), ExactIndex()
    row = 4 * Counting().dimensions
    async with rigged(indexes=IndexSelector(small, lambda: large, large_bytes=2 * row)) as rig:
        for name in ("/a", "/b"):
            rig.files.write("x/y", name, f"kettle {name}")
        assert sorted(await rig.paths("x/y", "kettle")) == ["/a", "/b"]
        assert (len(small.ids(1)), len(large.ids(1))) == (2, 0)

        third = rig.files.write("x/y", "/c", "kettle /c")
        await rig.find("x/y", "kettle")  # takes it in
        assert sorted(await rig.paths("x/y", "kettle")) == ["/a", "/b", "/c"]
        assert (len(small.ids(1)), len(large.ids(1))) == (0, 3)

        rig.files.delete(third)
        await rig.find("x/y", "kettle")
        assert sorted(await rig.paths("x/y", "kettle")) == ["/a", "/b"]
        assert (len(small.ids(1)), len(large.ids(1))) == (0, 2)  # it does not move to and fro


@needs_chroma
async def test_auto_compares_few_vectors_and_opens_no_chroma(tmp_path: Path) -> None:
    async with rigged(tmp_path, config=RetrievalConfig()) as rig:
        rig.files.write("x/y", "/tea", "kettle")
        assert await rig.paths("x/y", "kettle") == ["/tea"]

    assert not (tmp_path / "chroma").exists()


# --- Chroma --------------------------------------------------------------------------------------


@needs_chroma
async def test_chroma_follows_writes_deletes_and_restarts(tmp_path: Path) -> None:
    files = Files()
    async with rigged(tmp_path, files=files, config=CHROMA) as rig:
        tea = files.write("x/y", "/tea", "kettle")
        files.write("x/y", "/dog", "a dog")
        assert await rig.paths("x/y", "kettle", k=1) == ["/tea"]
        files.delete(tea)
        assert await rig.paths("x/y", "kettle dog") == ["/dog"]
    files.write("x/y", "/cup", "a cup")
    async with rigged(tmp_path, files=files, config=CHROMA) as rig:
        assert await rig.paths("x/y", "cup", k=1) == ["/cup"]
        assert sorted(await rig.paths("x/y", "cup dog")) == ["/cup", "/dog"]


@needs_chroma
async def test_what_chroma_lost_is_filled_in_again_without_embedding(tmp_path: Path) -> None:
    files, embedder = Files(), Counting()
    async with rigged(tmp_path, files=files, embedder=embedder, config=CHROMA) as rig:
        files.write("x/y", "/tea", "kettle on")
        await rig.find("x/y", "kettle")
    shutil.rmtree(tmp_path / "chroma")
    async with rigged(tmp_path, files=files, embedder=embedder, config=CHROMA) as rig:
        assert await rig.paths("x/y", "kettle") == ["/tea"]

    assert embedder.texts.count("kettle on") == 1


@needs_chroma
async def test_extra_vectors_in_chroma_are_removed(tmp_path: Path) -> None:
    files = Files()
    old = tmp_path / "backup"
    async with rigged(tmp_path / "state", files=files, config=CHROMA) as rig:
        files.write("x/y", "/dog", "dog")
        await rig.find("x/y", "dog")
    shutil.copytree(tmp_path / "state", old)
    async with rigged(tmp_path / "state", files=files, config=CHROMA) as rig:
        files.write("x/y", "/tea", "kettle")
        await rig.find("x/y", "kettle")
    for name in ("state.db", "lock"):  # a restored backup, without the index
        shutil.copy(old / name, tmp_path / "state" / name)

    async with rigged(tmp_path / "state", files=files, config=CHROMA) as rig:
        assert sorted(await rig.paths("x/y", "kettle dog")) == ["/dog", "/tea"]
        assert len(rig.vector_search._synced_indexes[1].index.ids(1)) == 2


@needs_chroma
async def test_chroma_gets_only_numbers_and_vectors(tmp_path: Path) -> None:
    async with rigged(tmp_path, config=CHROMA) as rig:
        rig.files.write("x/secretagent", "/secretpath", "secretword")
        await rig.find("x/secretagent", "secretword")
    stored = all_bytes(tmp_path / "chroma")

    assert stored
    for word in (b"secretagent", b"secretpath", b"secretword"):
        assert word not in stored


# --- encryption ----------------------------------------------------------------------------------


async def test_an_encrypted_state_holds_no_word_and_no_vector_in_the_clear(tmp_path: Path) -> None:
    async with rigged(tmp_path, key=b"k" * 32, config=RetrievalConfig()) as rig:
        rig.files.write("x/y", "/tea", "secretword")
        assert await rig.paths("x/y", "secretword") == ["/tea"]

    assert b"secretword" not in all_bytes(tmp_path)
    assert not (tmp_path / "chroma").exists()


@needs_chroma
async def test_an_encrypted_state_refuses_chroma_on_the_same_disk(tmp_path: Path) -> None:
    async with rigged(tmp_path, key=b"k" * 32, config=CHROMA) as rig:
        rig.files.write("x/y", "/tea", "kettle")

        with pytest.raises(ConfigError, match=r"retrieval\.index"):
            await rig.find("x/y", "kettle")


# --- all together --------------------------------------------------------------------------------

WORDS = ("kettle", "dog", "garden", "river")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "delete", "move", "search", "restart", "notify"]),
        st.sampled_from(["x/a", "x/b"]),
        st.sampled_from(["/1", "/2", "/d/3"]),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=60),
    ),
    max_size=25,
)


@given(STEPS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_search_finds_what_is_there_after_any_sequence_of_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, list[str]]]
) -> None:
    asyncio.run(_live(tmp_path_factory.mktemp("state"), steps))


async def _live(directory: Path, steps: list[tuple[str, str, str, list[str]]]) -> None:
    files, pending = Files(), list(steps)
    while pending:
        async with rigged(directory, files=files) as rig:
            while pending:
                step, owner, path, words = pending.pop()
                file = files.find(owner, path)
                if step == "write":
                    files.write(owner, path, " ".join(words))
                elif step == "delete" and file:
                    files.delete(file)
                elif step == "move" and file and not files.find(owner, path + "x"):
                    files.move(file, path + "x")
                elif step == "notify":
                    rig.index.notify(files.seq)
                elif step == "restart":
                    break
                elif step == "search":
                    there = {
                        (state.path, state.version)
                        for state in files.states.values()
                        if state.owner == owner and state.is_live
                        if set(words) & set(files.data[state.file].decode().split())
                    }
                    found = await rig.find(owner, " ".join(words), k=1_000)
                    assert there <= {(hit.path, hit.version) for hit in found}
                    for hit in found:
                        live = files.states[files.find(owner, hit.path) or 0]
                        assert live.is_live
                        assert hit.version == live.version
                        text = files.data[live.file].decode()
                        assert text[hit.start :].startswith(hit.excerpt)


# --- what is refused ------------------------------------------------------------------------------


def test_a_refused_collection_says_what_was_there_and_what_was_asked_for() -> None:
    config = KernelConfig(
        state={"directory": ":memory:"},  # type: ignore[arg-type]
        retrieval=RetrievalConfig(max_collection_bytes=10_000),
    )
    with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        collections = Collections(kernel.spawn("alice").port)

        with pytest.raises(QuotaExceeded, match=r"retrieval\.max_collection_bytes") as caught:
            collections.put("docs", [CollectionItem("k", "x" * 20_000)])
        assert caught.value.used == 0
        assert caught.value.requested > 20_000


def test_half_a_surrogate_pair_is_no_text() -> None:
    with pytest.raises(InvalidRequest, match="is not valid Unicode"):
        Embed(["\ud800"])
    with pytest.raises(InvalidRequest, match="is not valid Unicode"):
        CollectionPut("docs", [CollectionItem("k", "\ud800")])
    with pytest.raises(InvalidRequest, match="is not valid Unicode"):
        CollectionSearch("docs", "\ud800")
