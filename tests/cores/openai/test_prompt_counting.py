"""The tokens of a prompt are counted where a server can, and else estimated and marked so."""

from __future__ import annotations

from functools import partial

import pytest

from aios_core import Kernel, KernelConfig, ModelLoadError, tiny_model_path
from aios_core.cores.openai.core import OpenAICore
from aios_core.cores.openai.prompt_counting import CountCache, LocalTokenizer
from aios_core.cores.transformers import TransformersCore
from aios_core.messages import parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.stub_server import Answer, StubServer
from aios_core.token_estimate import TokenRatio

WORDS = "some words that a person would write in a letter to a friend, not too short " * 8
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


def kernel_on(server: StubServer, **options: object) -> Kernel:
    core = OpenAICore(server.base_url, ["stub"], **options)  # type: ignore[arg-type]
    return Kernel(KernelConfig(drain_s=0.0), cores=[core])


def test_a_vllm_server_counts_its_prompts() -> None:
    with StubServer(flavor="vllm") as server, kernel_on(server) as kernel:
        size = kernel.spawn("a").llm.measure("one two three")

    assert (size.num_tokens, size.is_exact) == (3, True)
    assert server.num_counted == 1


def test_a_server_counts_a_prompt_once() -> None:
    with StubServer(flavor="vllm") as server, kernel_on(server) as kernel:
        llm = kernel.spawn("a").llm
        sizes = [llm.measure(text).num_tokens for text in ("one two", "one two", "three")]

    assert sizes == [2, 2, 1]
    assert server.num_counted == 2


async def test_the_latest_counts_are_kept_and_unknown_ones_are_not() -> None:
    asked: list[int | None] = []

    async def count(of: int | None) -> int | None:
        asked.append(of)
        return of

    cache = CountCache(size=2)
    for number in (1, 2, 1, 3, 1, 2, None, None):
        assert await cache.get({"prompt": number}, partial(count, number)) == number

    assert asked == [1, 2, 3, 2, None, None]
    assert len(cache) == 2


def test_a_server_that_does_not_count_has_its_prompts_estimated() -> None:
    with StubServer() as server, kernel_on(server) as kernel:
        size = kernel.spawn("a").llm.measure(WORDS)

    assert not size.is_exact
    assert size.num_tokens == pytest.approx(len(WORDS) / 4, rel=0.1), "not one token a byte"


def test_an_estimate_follows_what_the_server_reports() -> None:
    with StubServer(Answer("ok")) as server, kernel_on(server) as kernel:
        llm = kernel.spawn("a").llm
        for _ in range(3):
            llm.generate(WORDS)
        size = llm.measure(WORDS * 4)

    assert size.num_tokens == pytest.approx(len(WORDS.split()) * 4, rel=0.25)


def test_a_tokenizer_that_the_user_names_counts_as_the_model_does() -> None:
    prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "héllo there"}]
    tiny = TransformersCore(tiny_model_path(), models=("tiny",))
    with Kernel(KernelConfig(drain_s=0.0), cores=[tiny]) as kernel:
        exact = kernel.spawn("a").llm.measure(prompt)
    with StubServer() as server, kernel_on(server, tokenizer=str(tiny_model_path())) as kernel:
        size = kernel.spawn("a").llm.measure(prompt)

    assert (size.num_tokens, size.is_exact) == (exact.num_tokens, True)


def test_a_tokenizer_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelLoadError, match="tokenizer: got '/nowhere'; allowed: a folder"):
        LocalTokenizer("/nowhere").load()


def test_an_image_is_not_counted_by_the_bytes_of_its_file() -> None:
    message = {"role": "user", "content": [IMAGE, {"type": "text", "text": "what is it?"}]}
    request = LLMGenerate(parse_messages([message]))

    assert 700 < TokenRatio().prompt_tokens(request) < 1_000
    with StubServer(flavor="vllm") as server, kernel_on(server) as kernel:
        assert not kernel.spawn("a").llm.measure([message]).is_exact
