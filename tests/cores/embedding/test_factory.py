from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aios_core.config import EmbeddingConfig, KernelConfig
from aios_core.cores.embedding import HashingEmbedder, OpenAIEmbedder, build_embedder
from aios_core.errors import ConfigError, ModelLoadError


def test_the_default_needs_nothing() -> None:
    embedder = build_embedder(EmbeddingConfig())

    assert isinstance(embedder, HashingEmbedder)
    assert embedder.dimensions == 1_024


def test_an_endpoint_takes_its_key_from_the_environment() -> None:
    config = EmbeddingConfig("openai", model="m", base_url="http://x/v1", api_key_env="KEY")

    assert isinstance(build_embedder(config, environ={"KEY": "k"}), OpenAIEmbedder)
    with pytest.raises(ConfigError, match="KEY"):
        build_embedder(config, environ={})
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        build_embedder(EmbeddingConfig("openai", model="m"), environ={})


def test_a_directory_that_is_none_is_refused_when_the_kernel_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no folder"):
        build_embedder(EmbeddingConfig("transformers", path=str(tmp_path / "no")))


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"kind": "transformers"}, "embedding.path"),
        ({"kind": "openai"}, "embedding.model"),
        ({"kind": "hashing", "path": "x"}, "embedding.path"),
        ({"kind": "hashing", "batch_size": 3}, "embedding.batch_size"),
        ({"kind": "transformers", "path": "x", "base_url": "y"}, "embedding.base_url"),
        ({"kind": "magic"}, "embedding.kind"),
        ({"dimensions": 3}, "embedding.dimensions"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused_by_its_key(
    section: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        KernelConfig(embedding=section)  # type: ignore[arg-type]

    assert caught.value.key == key


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"overlap_chars": 600}, "retrieval.overlap_chars"),
        ({"index": "exact", "chroma_url": "http://x"}, "retrieval.chroma_url"),
        ({"chunk_chars": 5}, "retrieval.chunk_chars"),
    ],
)
def test_a_retrieval_that_makes_no_sense_is_refused_by_its_key(
    section: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        KernelConfig(retrieval=section)  # type: ignore[arg-type]

    assert caught.value.key == key


def test_building_an_embedder_imports_no_library() -> None:
    code = (
        "import sys; from aios_core.config import EmbeddingConfig as C;"
        "from aios_core.cores.embedding import build_embedder as b;"
        "b(C()); b(C('openai', model='m', base_url='http://x/v1'));"
        "print([m for m in ('openai', 'torch', 'transformers', 'numpy', 'chromadb')"
        " if m in sys.modules])"
    )

    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert found.stdout == "[]\n"
