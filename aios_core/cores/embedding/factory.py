"""Build the embedder of a configuration. Loads no model and connects to no endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping

from aios_core.config import EmbeddingConfig
from aios_core.cores.embedding.hashing import DIMENSIONS, HashingEmbedder
from aios_core.cores.embedding.openai import BATCH_SIZE as ENDPOINT_BATCH
from aios_core.cores.embedding.openai import OpenAIEmbedder
from aios_core.cores.embedding.transformers import BATCH_SIZE, TransformersEmbedder
from aios_core.errors import ConfigError
from aios_core.redaction import learn
from aios_core.retrieval.embedding import Embedder

OPENAI_URL = "https://api.openai.com/v1"


def build_embedder(
    config: EmbeddingConfig, *, environ: Mapping[str, str] | None = None
) -> Embedder:
    """Build the embedder that the section `embedding` describes.

    Args:
        config: the section.
        environ: holds the key that `api_key_env` names; None: the process environment.

    Raises:
        ConfigError: the variable of `api_key_env` is not set.
        ModelLoadError: the directory is not a model.
    """
    if config.kind == "hashing":
        return HashingEmbedder(config.dimensions or DIMENSIONS)
    if config.kind == "transformers":
        return TransformersEmbedder(
            str(config.path), model=config.model, batch_size=config.batch_size or BATCH_SIZE
        )
    environ = os.environ if environ is None else environ
    variable = config.api_key_env or ("OPENAI_API_KEY" if config.base_url is None else None)
    if variable and not environ.get(variable):
        allowed = "the name of an environment variable that is set and holds the key"
        raise ConfigError("embedding.api_key_env", variable, allowed)
    learn(environ[variable] if variable else None)
    return OpenAIEmbedder(
        config.base_url or OPENAI_URL,
        str(config.model),
        api_key=environ[variable] if variable else None,
        dimensions=config.dimensions,
        batch_size=config.batch_size or ENDPOINT_BATCH,
    )
