"""Find by meaning: embeddings, chunks, and indexes of vectors.

    embedding      the contract of an embedder: texts in, vectors out
    chunking       cut a text into parts that a search can find
    vector_rows    vectors in the state database, from which every index is made
    nearest        the contract of an index, and exact search
    chroma         Chroma as an index
    index_choice   select the index of a set of vectors
    vector_search  rows of vectors, and an index that is kept in step with them

Used by files, collections and memory. An index is derived data: it can be dropped and made again.
"""
