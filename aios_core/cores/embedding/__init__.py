"""Embedding cores: what turns texts into vectors, behind `aios_core.retrieval.embedding.Embedder`.

    HashingEmbedder       words and their parts, hashed: no download, no library, no meaning
    TransformersEmbedder  a sentence-transformer directory, in this process
    OpenAIEmbedder        any endpoint that speaks OpenAI's /embeddings
    EmbeddingManager      serves agents' `llm.embed` with the kernel's embedder

A kind is one row in `factory`; its library is imported when it is first used.
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
