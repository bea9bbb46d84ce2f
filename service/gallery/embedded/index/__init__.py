"""The search index in memory, and its file.

An `Index` (`index`) holds each row twice: its vector, and the values that filters ask about (`columns`).

Vectors are stored in one of two ways. Up to 128 MiB, `FlatVectors` (`flat`) compares the query with every vector. Above
it, `IvfVectors` (`ivf`) reads a few clustered lists of 8-bit codes and returns candidates. A `GpuMirror` (`gpu`) may
find the candidates instead. `Index.search` then scores the candidates in double precision with their full vectors, so
two equal vectors always have equal scores.

A row that is removed keeps its position and is marked dead. The `Rebuilder` (`rebuild`) copies the index without its
dead rows, or changes the way in which vectors are stored, in a background thread.

The `IndexSaver` (`saver`) writes the index to `index.faiss` in the format of `file`. At the next start `load_index`
(`saver`) reads that file and adds and removes the rows that changed after the save. If the file is missing, damaged or
of another database, it builds the index from the database.
"""
