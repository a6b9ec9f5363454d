"""Embedders: implementations of `aios_core.retrieval.embedding.Embedder`, and their manager.

    HashingEmbedder       hashes words and their parts: no download, no library, no meaning
    TransformersEmbedder  runs a sentence-transformer directory in this process
    OpenAIEmbedder        calls any endpoint with OpenAI's /embeddings API
    EmbeddingManager      serves agents' `llm.embed` with the kernel's embedder

`factory` builds them from the configuration; a library is imported when it is first used.
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
