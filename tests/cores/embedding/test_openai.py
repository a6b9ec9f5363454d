from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aios_core.cores.embedding import OpenAIEmbedder
from aios_core.errors import (
    ContextOverflow,
    CoreError,
    InvalidRequest,
    KernelClosed,
    NoSuchObject,
    RateLimited,
)
from aios_core.retrieval.embedding import MeteredEmbedder
from aios_core.testing.stub_server import Answer, Drop, Hang, Raw, Refuse, StubServer


@asynccontextmanager
async def embedding(server: StubServer, **options: Any) -> AsyncIterator[OpenAIEmbedder]:
    embedder = OpenAIEmbedder(server.base_url, options.pop("model", "stub"), **options)
    yield embedder
    await embedder.close()


def vectors_of(*numbers: object) -> Raw:
    data = [{"object": "embedding", "index": i, "embedding": n} for i, n in enumerate(numbers)]
    body = {"object": "list", "model": "stub", "data": data}
    return Raw(json.dumps(body).encode(), "application/json")


async def test_vectors_come_in_the_order_of_the_texts_with_length_one() -> None:
    with StubServer() as server:
        async with embedding(server) as embedder:
            vectors = await embedder.embed(["a", "bbb cc", "cc"])

    assert [round(v[0] / v[1]) for v in vectors] == [1, 6, 2]
    assert all(sum(x * x for x in v) == pytest.approx(1.0) for v in vectors)
    assert vectors.num_tokens == 4
    assert embedder.dimensions == 4
    assert isinstance(embedder, MeteredEmbedder)
    assert embedder.max_tokens(["a", "bbb cc", "cc"]) >= 4


async def test_many_texts_go_in_batches() -> None:
    with StubServer() as server:
        async with embedding(server, batch_size=10) as embedder:
            vectors = await embedder.embed(["x" * n for n in range(1, 36)])

    assert [round(v[0] / v[1]) for v in vectors] == list(range(1, 36))
    assert sorted(len(e.body["input"]) for e in server.exchanges) == [5, 10, 10, 10]
    assert server.max_concurrent <= 4


async def test_blank_texts_are_not_sent_and_have_no_content() -> None:
    with StubServer() as server:
        async with embedding(server) as embedder:
            assert list(await embedder.embed([" ", ""])) == [(0.0,) * 4] * 2
            assert next(iter(await embedder.embed(["", "a"]))) == (0.0,) * 4

    assert all("" not in exchange.body["input"] for exchange in server.exchanges)


async def test_dimensions_are_asked_for_and_part_of_the_name() -> None:
    with StubServer() as server:
        async with embedding(server, dimensions=8) as embedder:
            (vector,) = await embedder.embed(["a"])

    assert len(vector) == 8
    assert embedder.name == "stub@8"
    assert server.exchanges[0].body["dimensions"] == 8
    assert server.exchanges[0].body["encoding_format"] == "float"


@pytest.mark.parametrize(
    ("behavior", "error"),
    [
        (Refuse(429, headers={"Retry-After": "7"}), RateLimited),
        (Refuse(500), CoreError),
        (Refuse(400, "no such format"), InvalidRequest),
        (Refuse(400, "maximum context length is 5 tokens"), ContextOverflow),
        (Refuse(401), CoreError),
        (Refuse(404, "no such model", code="model_not_found"), NoSuchObject),
        (Drop(), CoreError),
        (Raw(b"<html>", "application/json"), CoreError),
        (vectors_of(), CoreError),
        (vectors_of([1.0], [1.0]), CoreError),
        (vectors_of([]), CoreError),
        (vectors_of(["x"]), CoreError),
    ],
)
async def test_a_bad_day_of_the_endpoint_is_an_error_of_ours(
    behavior: Any, error: type[Exception]
) -> None:
    with StubServer([behavior, Answer()]) as server:
        async with embedding(server) as embedder:
            with pytest.raises(error):
                await embedder.embed(["a"])

            assert len(await embedder.embed(["a"])) == 1


@pytest.mark.parametrize(
    ("behavior", "kind", "shown"),
    [
        (Raw(b"<html>Please log in</html>", "text/html"), CoreError, "Please log in"),
        (Raw(b'{"detail": "no credit"}', "application/json"), CoreError, "no credit"),
        (Raw(b'{"error": {"message": "m", "code": 401}}', "application/json"), CoreError, "m"),
        (Raw(b'{"error": {"message": "m", "code": 429}}', "application/json"), RateLimited, "m"),
        (Raw(b'{"error": {"message": "m", "code": 404}}', "application/json"), CoreError, "m"),
    ],
)
async def test_status_200_without_vectors_is_of_the_kind_that_the_body_says_and_shows_it(
    behavior: Raw, kind: type[Exception], shown: str
) -> None:
    with StubServer(behavior) as server:
        async with embedding(server) as embedder:
            with pytest.raises(kind) as caught:
                await embedder.embed(["a"])

    assert not getattr(caught.value, "is_retryable", False)
    assert shown in str(caught.value)


async def test_a_pause_that_the_server_asks_for_is_told() -> None:
    with StubServer([Refuse(429, headers={"Retry-After": "7"})]) as server:
        async with embedding(server) as embedder:
            with pytest.raises(RateLimited) as caught:
                await embedder.embed(["a"])

    assert caught.value.retry_after_s == 7


async def test_an_endpoint_that_is_silent_is_given_up() -> None:
    with StubServer([Hang()]) as server:
        async with embedding(server, timeout_s=0.2) as embedder:
            with pytest.raises(CoreError, match="no answer within"):
                await embedder.embed(["a"])


async def test_an_endpoint_that_is_not_there_is_named() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:1/v1", "stub")

    with pytest.raises(CoreError, match="cannot reach") as caught:
        await embedder.embed(["a"])

    assert caught.value.is_retryable
    await embedder.close()


async def test_cancelling_closes_the_connections() -> None:
    with StubServer([Hang()]) as server:
        async with embedding(server, batch_size=1) as embedder:
            task = asyncio.create_task(embedder.embed(["a", "b"]))
            await server.until(lambda: server.num_active == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.until(lambda: server.num_active == 0)


async def test_a_closed_embedder_says_so() -> None:
    embedder = OpenAIEmbedder("http://127.0.0.1:1/v1", "stub")
    await embedder.close()

    with pytest.raises(KernelClosed):
        await embedder.embed(["a"])
