"""Chat stores, embeddings and vectors in agents' memory keep LlamaIndex's contracts."""

from __future__ import annotations

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.vector_stores.types import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.embeddings.aios import AIOSEmbedding
from llama_index.llms.aios import AIOSLLM
from llama_index.storage.chat_store.aios import AIOSChatStore, AIOSSimpleChatStore
from llama_index.vector_stores.aios import AIOSVectorStore

from aios_core import InvalidRequest, Kernel


def said(*texts: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text) for text in texts]


def texts(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


@pytest.fixture
def store(kernel: Kernel) -> AIOSChatStore:
    return AIOSChatStore(kernel=kernel)


class TestChatStore:
    async def test_messages_come_back_as_they_were(self, store: AIOSChatStore) -> None:
        call = ToolCallBlock(tool_call_id="c", tool_name="add", tool_kwargs={"a": 1})
        messages = [
            *said("hi"),
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="2", additional_kwargs={"tool_call_id": "c"}),
        ]
        await store.add_messages("s", messages)

        assert await store.get_messages("s") == messages

    async def test_windows_and_counts(self, store: AIOSChatStore) -> None:
        await store.add_messages("s", said("a", "b", "c", "d"))

        assert texts(await store.get_messages("s", limit=2, offset=1)) == ["b", "c"]
        assert await store.count_messages("s") == 4
        assert await store.count_messages("nobody") == 0

    async def test_archived_messages_are_kept_apart(self, store: AIOSChatStore) -> None:
        await store.add_messages("s", said("a", "b", "c"))

        assert texts(await store.archive_oldest_messages("s", 2)) == ["a", "b"]
        assert texts(await store.get_messages("s")) == ["c"]
        assert texts(await store.get_messages("s", status=MessageStatus.ARCHIVED)) == ["a", "b"]
        assert texts(await store.get_messages("s", status=None)) == ["a", "b", "c"]

    async def test_messages_can_be_taken_out(self, store: AIOSChatStore) -> None:
        await store.add_messages("s", said("a", "b", "c", "d"))

        taken = await store.delete_message("s", 1)

        assert taken is not None
        assert taken.content == "b"
        assert texts(await store.delete_oldest_messages("s", 1)) == ["a"]
        assert texts(await store.get_messages("s")) == ["c", "d"]
        await store.delete_messages("s")
        assert await store.get_messages("s") == []

    async def test_all_can_be_replaced_and_sessions_are_listed(self, store: AIOSChatStore) -> None:
        await store.add_message("one", said("old")[0])
        await store.set_messages("one", said("new"))
        await store.add_message("two", said("x")[0])

        assert texts(await store.get_messages("one")) == ["new"]
        assert sorted(await store.get_keys()) == ["one", "two"]

    async def test_agents_do_not_see_one_anothers(
        self, kernel: Kernel, store: AIOSChatStore
    ) -> None:
        await store.add_messages("s", said("a secret"))

        assert await AIOSChatStore(kernel=kernel, agent="other").get_messages("s") == []

    async def test_an_agent_remembers_across_runs(
        self, kernel: Kernel, store: AIOSChatStore
    ) -> None:
        agent = FunctionAgent(llm=AIOSLLM(kernel=kernel), tools=[], timeout=20)
        for text in ("one", "two"):
            memory = Memory.from_defaults(session_id="s", chat_store=store, token_limit=4_000)
            await agent.run(text, memory=memory)

        assert texts(await store.get_messages("s")) == [
            "one",
            "You said: one",
            "two",
            "You said: two",
        ]

    async def test_memory_flushes_its_oldest_messages_to_the_archive(
        self, store: AIOSChatStore
    ) -> None:
        memory = Memory.from_defaults(
            session_id="s", chat_store=store, token_limit=60, token_flush_size=20
        )
        for number in range(8):
            await memory.aput(said(f"message {number} " + "word " * 10)[0])

        assert await store.count_messages("s", MessageStatus.ARCHIVED) > 0
        assert await store.count_messages("s", None) == 8


class TestSimpleChatStore:
    async def test_both_halves_are_one_store(self, kernel: Kernel) -> None:
        store = AIOSSimpleChatStore(kernel=kernel)
        store.add_message("s", said("a")[0])
        await store.async_add_message("s", said("b")[0])

        assert texts(await store.aget_messages("s")) == ["a", "b"]
        last = store.delete_last_message("s")
        assert last is not None
        assert last.content == "b"
        assert store.delete_message("s", 7) is None
        assert texts(store.delete_messages("s") or []) == ["a"]
        assert store.get_messages("s") == []

    def test_it_stands_behind_a_buffer(self, kernel: Kernel) -> None:
        store = AIOSSimpleChatStore(kernel=kernel)
        buffer = ChatMemoryBuffer.from_defaults(chat_store=store, chat_store_key="s")

        buffer.put(said("hi")[0])

        assert texts(store.get_messages("s")) == ["hi"]


class TestEmbedding:
    async def test_all_ways_give_the_same_vector(self, kernel: Kernel) -> None:
        model = AIOSEmbedding(kernel=kernel)

        one = model.get_text_embedding("pizza")

        assert one == await model.aget_text_embedding("pizza")
        assert one == model.get_text_embedding_batch(["pizza", "rain"])[0]
        assert one == (await model.aget_text_embedding_batch(["pizza"]))[0]
        assert one == model.get_query_embedding("pizza")


def node(identity: str, text: str, vector: list[float], **metadata: str) -> TextNode:
    made = TextNode(id_=identity, text=text, embedding=vector, metadata=metadata)
    document = RelatedNodeInfo(node_id=metadata.get("doc", "d"))
    made.relationships[NodeRelationship.SOURCE] = document
    return made


@pytest.fixture
def vectors(kernel: Kernel) -> AIOSVectorStore:
    made = AIOSVectorStore(kernel=kernel)
    made.add(
        [
            node("1", "rain in Oslo", [1.0, 0.0], topic="weather", doc="a"),
            node("2", "pizza", [0.0, 1.0], topic="food", doc="b"),
            node("3", "snow in Oslo", [0.9, 0.1], topic="weather", doc="a"),
        ]
    )
    return made


class TestVectorStore:
    async def test_the_closest_come_first_with_text_and_metadata(
        self, vectors: AIOSVectorStore
    ) -> None:
        query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=2)

        found, again = vectors.query(query), await vectors.aquery(query)

        assert found.ids == again.ids == ["1", "3"]
        assert found.nodes is not None
        assert (found.nodes[0].get_content(), found.nodes[0].metadata["topic"]) == (
            "rain in Oslo",
            "weather",
        )

    def test_filters_are_kept_to(self, vectors: AIOSVectorStore) -> None:
        topic = MetadataFilters(filters=[MetadataFilter(key="topic", value="food")])
        query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=3, filters=topic)

        assert vectors.query(query).ids == ["2"]

    def test_a_filter_that_there_is_not_is_refused_by_name(self, vectors: AIOSVectorStore) -> None:
        above = MetadataFilter(key="n", value=1, operator=FilterOperator.GT)
        query = VectorStoreQuery(
            query_embedding=[1.0, 0.0], filters=MetadataFilters(filters=[above])
        )

        with pytest.raises(InvalidRequest, match="allowed: '==' and 'in'"):
            vectors.query(query)

    def test_a_document_goes_with_all_its_nodes(self, vectors: AIOSVectorStore) -> None:
        vectors.delete("a")

        query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=3)
        assert vectors.query(query).ids == ["2"]

    def test_nodes_are_got_and_taken_out_by_id(self, vectors: AIOSVectorStore) -> None:
        vectors.delete_nodes(["1"])

        assert [one.node_id for one in vectors.get_nodes(["1", "3"])] == ["3"]
        vectors.clear()
        assert vectors.get_nodes(["2", "3"]) == []

    async def test_a_query_engine_finds_and_answers(self, kernel: Kernel) -> None:
        context = StorageContext.from_defaults(vector_store=AIOSVectorStore(kernel=kernel))
        index = VectorStoreIndex.from_documents(
            [Document(text="The harbour opens at nine."), Document(text="Pizza needs flour.")],
            storage_context=context,
            embed_model=AIOSEmbedding(kernel=kernel),
        )
        engine = index.as_query_engine(llm=AIOSLLM(kernel=kernel), similarity_top_k=1)

        response = await engine.aquery("When does the harbour open?")

        assert "harbour opens at nine" in str(response.source_nodes[0].node.get_content())
        assert "You said" in str(response)
