"""LlamaIndex's vector store on the AIOS kernel."""

from llama_index_aios.vector_store import AIOSVectorStore

__all__ = ["AIOSVectorStore"]
