"""LlamaIndex's embeddings on the AIOS kernel."""

from llama_index_aios.embeddings import AIOSEmbedding

__all__ = ["AIOSEmbedding"]
