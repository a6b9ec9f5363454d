"""Semantic search: embeddings, chunks, and vector indexes.

    embedding      the contract of an embedder: texts in, vectors out
    chunking       cut texts into chunks, each of which gets a vector
    vector_rows    vectors in the state database, from which every index is built
    nearest        the contract of an index, and exact search
    chroma         search with Chroma
    index_choice   select exact search or Chroma for an index
    vector_search  search an index, and keep it equal to the rows of its vectors

Used by files, collections and memory. An index is derived data: it can be dropped and rebuilt.
The embedders themselves are in `aios_core.cores.embedding`.
"""

from aios_core.retrieval.embedding import Embedder, MeteredEmbedder, Vector

__all__ = ["Embedder", "MeteredEmbedder", "Vector"]
