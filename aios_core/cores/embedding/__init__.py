"""Embedders: implementations of `aios_core.retrieval.embedding.Embedder`, and their manager.

    hashing          `HashingEmbedder`: hash words and their parts; needs no model, knows no meaning
    transformers     `TransformersEmbedder`: a sentence transformer in this process
    sentence_model   run that model; `model_directory` reads its configuration files
    openai           `OpenAIEmbedder`: any endpoint with OpenAI's /embeddings API
    factory          build the embedder of a configuration
    manager          `EmbeddingManager`: serve `agent.llm.embed`

A library is imported when its embedder is first used. Searching with the vectors is the task of
`aios_core.retrieval`.
"""

from aios_core.cores.embedding.factory import build_embedder
from aios_core.cores.embedding.hashing import HashingEmbedder
from aios_core.cores.embedding.manager import EmbeddingManager
from aios_core.cores.embedding.openai import OpenAIEmbedder
from aios_core.cores.embedding.transformers import TransformersEmbedder

__all__ = [
    "EmbeddingManager",
    "HashingEmbedder",
    "OpenAIEmbedder",
    "TransformersEmbedder",
    "build_embedder",
]
