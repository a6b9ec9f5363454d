"""The in-process embedder, over tiny models with random weights that are made on the spot."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

from aios_core.cores.embedding import TransformersEmbedder
from aios_core.errors import KernelClosed, ModelLoadError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["the", "kettle", "sings", "in", "kitchen", "a", "dog", "sleeps"]
SIZE = 16


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without a word about pooling."""
    place = tmp_path_factory.mktemp("model") / "bert"
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    transformers.BertModel(config).save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(place / "vocab.txt")).save_pretrained(place)
    return place


def with_modules(plain: Path, place: Path, modes: dict[str, bool], *, extra: str = "") -> Path:
    """Write a model directory with the files of sentence-transformers."""
    place.mkdir()
    for file in plain.iterdir():
        (place / file.name).symlink_to(file)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    kinds += [("3_Extra", extra)] if extra else []
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": SIZE, **modes}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    return place


def without_weights(plain: Path, place: Path) -> Path:
    """Write an incomplete model directory."""
    place.mkdir()
    for file in plain.iterdir():
        if file.suffix != ".safetensors":
            (place / file.name).symlink_to(file)
    return place


def states(plain: Path, text: str) -> list[list[float]]:
    """Return the model's own output for a text, token by token."""
    model = transformers.BertModel.from_pretrained(plain).eval()
    ids = transformers.AutoTokenizer.from_pretrained(plain)(text, return_tensors="pt")
    with torch.inference_mode():
        return model(**ids).last_hidden_state[0].tolist()  # type: ignore[no-any-return]


def unit(vector: list[float]) -> list[float]:
    return [value / math.hypot(*vector) for value in vector]


async def one(embedder: TransformersEmbedder, text: str) -> list[float]:
    (vector,) = await embedder.embed([text])
    await embedder.close()
    return list(vector)


async def test_a_plain_encoder_is_pooled_by_the_mean(plain: Path) -> None:
    rows = states(plain, "the kettle sings")

    vector = await one(TransformersEmbedder(plain), "the kettle sings")

    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert vector == pytest.approx(unit(mean), abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "pick"),
    [
        ("pooling_mode_cls_token", lambda rows: rows[0]),
        ("pooling_mode_lasttoken", lambda rows: rows[-1]),
        ("pooling_mode_max_tokens", lambda rows: [max(c) for c in zip(*rows, strict=True)]),
    ],
)
async def test_the_directory_says_how_to_pool(
    plain: Path, tmp_path: Path, mode: str, pick: object
) -> None:
    modes = {"pooling_mode_mean_tokens": False, mode: True}
    place = with_modules(plain, tmp_path / "model", modes)
    embedder = TransformersEmbedder(place)

    vectors = await embedder.embed(["the kettle", "a dog sleeps in the"])  # of unlike lengths

    expected = unit(pick(states(plain, "the kettle")))  # type: ignore[operator]
    assert list(vectors[0]) == pytest.approx(expected, abs=1e-5)
    await embedder.close()


async def test_texts_are_cut_at_the_length_that_the_directory_says(
    plain: Path, tmp_path: Path
) -> None:
    place = with_modules(plain, tmp_path / "model", {"pooling_mode_mean_tokens": True})
    embedder = TransformersEmbedder(place)

    short, long = await embedder.embed(["the kettle sings in", "the kettle sings in the kitchen"])

    assert list(short) == pytest.approx(list(long), abs=1e-6)
    await embedder.close()


async def test_batches_change_nothing_and_order_is_kept(plain: Path) -> None:
    texts = ["the kettle", "", "a dog sleeps in the kitchen", "dog", "the the the"]
    small, large = TransformersEmbedder(plain, batch_size=1), TransformersEmbedder(plain)

    one_by_one, together = await small.embed(texts), await large.embed(texts)

    for first, second in zip(one_by_one, together, strict=True):
        assert list(first) == pytest.approx(list(second), abs=1e-5)
    assert list(together[1]) == [0.0] * SIZE
    assert together.num_tokens == one_by_one.num_tokens == 4 + 8 + 3 + 5
    assert large.max_tokens(texts) >= together.num_tokens
    await small.close()
    await large.close()


async def test_callers_take_turns_batch_by_batch(plain: Path) -> None:
    embedder = TransformersEmbedder(plain, batch_size=1)
    await embedder.embed(["dog"])
    many = asyncio.create_task(embedder.embed(["the kettle sings"] * 200))
    await asyncio.sleep(0)

    await embedder.embed(["dog"])

    assert not many.done()
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many
    await embedder.close()


def test_the_name_follows_the_weights_and_the_pooling(plain: Path, tmp_path: Path) -> None:
    mean = with_modules(plain, tmp_path / "m", {"pooling_mode_mean_tokens": True})
    cls = with_modules(plain, tmp_path / "c", {"pooling_mode_cls_token": True})
    names = [TransformersEmbedder(place, model="x").name for place in (mean, cls, mean)]

    assert names[0] == names[2] != names[1]
    assert names[0].startswith("x@")


@pytest.mark.parametrize("what", ["nowhere", "empty", "dense", "pooling"])
def test_a_directory_that_cannot_serve_is_refused_in_words(
    plain: Path, tmp_path: Path, what: str
) -> None:
    place = tmp_path / "model"
    if what == "empty":
        place.mkdir()
    elif what == "dense":
        with_modules(plain, place, {"pooling_mode_mean_tokens": True}, extra="Dense")
    elif what == "pooling":
        with_modules(plain, place, {"pooling_mode_weightedmean_tokens": True})

    with pytest.raises(ModelLoadError) as caught:
        TransformersEmbedder(place)

    assert str(tmp_path) in str(caught.value)


async def test_weights_that_are_damaged_or_missing_are_an_error_of_ours(
    plain: Path, tmp_path: Path
) -> None:
    place = without_weights(plain, tmp_path / "model")
    missing = TransformersEmbedder(place)
    with pytest.raises(ModelLoadError):
        await missing.embed(["dog"])
    await missing.close()

    (place / "model.safetensors").write_bytes(b"garbage")
    damaged = TransformersEmbedder(place)
    with pytest.raises(ModelLoadError):
        await damaged.embed(["dog"])
    await damaged.close()


async def test_a_closed_embedder_says_so(plain: Path) -> None:
    embedder = TransformersEmbedder(plain)
    await embedder.close()
    await embedder.close()

    with pytest.raises(KernelClosed):
        await embedder.embed(["dog"])
