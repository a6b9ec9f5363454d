from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_core.cores.embedding import HashingEmbedder
from aios_core.cores.embedding.hashing import hashed
from aios_core.errors import InvalidRequest


def cosine(one: str, other: str) -> float:
    return math.fsum(a * b for a, b in zip(hashed(one), hashed(other), strict=True))


@given(st.text(max_size=200))
def test_a_vector_has_length_one_or_is_zero(text: str) -> None:
    length = math.hypot(*hashed(text, 64))

    assert length == pytest.approx(1.0) or length == 0.0


@pytest.mark.parametrize(
    ("one", "near", "far"),
    [
        ("where is the kettle", "the kettle is in the kitchen", "the dog sleeps in the garden"),
        ("indexing files", "we index a file", "cats sleep"),
        ("the colour of money", "what color is money", "the size of boats"),
        ("grüße aus köln", "GRÜSSE aus KÖLN", "Post aus Rom"),
        ("東京の天気", "天気は東京", "猫が好き"),
        ("new york", "new york city", "york has a new mayor"),
        ("parse_config fails", "why does parse_config fail", "the weather fails to please"),
    ],
)
def test_texts_that_share_words_stems_and_neighbours_are_near(
    one: str, near: str, far: str
) -> None:
    assert cosine(one, near) > cosine(one, far) + 0.05


def test_unrelated_texts_are_nearly_at_right_angles() -> None:
    assert abs(cosine("quarterly revenue forecast", "puppies chase yellow butterflies")) < 0.15


def test_function_words_count_only_if_there_is_nothing_else() -> None:
    assert cosine("what is the kettle", "kettle") == pytest.approx(1.0)
    assert cosine("to be or not to be", "to be or not to be") == pytest.approx(1.0)


def test_a_vector_is_the_same_in_every_process() -> None:
    code = (
        "from aios_core.cores.embedding.hashing import hashed;"
        "print([(i, round(v, 6)) for i, v in enumerate(hashed('the kettle sings')) if v][:3])"
    )

    outputs = {
        subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert outputs == {GOLDEN}


GOLDEN = "[(4, -0.16169), (7, 0.16169), (18, 0.146254)]\n"


async def test_the_embedder_embeds_in_order_and_names_itself() -> None:
    embedder = HashingEmbedder(64)

    vectors = await embedder.embed(["kettle", "", "dog"])

    assert [list(vector) for vector in vectors] == [
        hashed("kettle", 64), [0.0] * 64, hashed("dog", 64)
    ]  # fmt: skip
    assert (embedder.name, embedder.dimensions) == ("hashing-64-v1", 64)
    await embedder.close()


def test_too_few_dimensions_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="dimensions"):
        HashingEmbedder(2)
