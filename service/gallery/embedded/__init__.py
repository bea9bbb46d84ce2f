"""The gallery in a directory of this machine: SQLite stores the records, an index in memory finds them.

How a record is enrolled:

1. `EmbeddedGallery.add` or `put` calls `EmbeddedGallery.enrol` (`gallery`), which checks it and turns it into a `Row`.
2. `enrol` gives the function `enrol` (`writer`) to the `Writer`, which runs it in a transaction, together with the
   changes of other callers.
3. That function writes the row, its vector and its metadata terms (`rows`), and entries about removed records
   (`audit`), to the SQLite file (`database`).
4. After the commit, the `Writer` calls `EmbeddedGallery._on_commit`, which adds the vector and the values for filters
   to the `Index` (`index`). Only then the call of step 1 returns.
5. From time to time the `IndexSaver` saves the index to a file, and the `Rebuilder` replaces the index by one that
   suits the number of rows.

How a search runs:

1. `EmbeddedGallery.search` opens a snapshot of the database from the pool `Readers` (`database`).
2. It turns the filter into a `RowFilter`; `MetadataTerms` (`metadata_terms`) looks up the rows of each metadata term.
3. `Index.search` waits until the index has the snapshot's version, masks the rows that do not pass, finds candidates
   and scores them in double precision.
4. The gallery orders equal scores by id and reads the records of the best rows from the same snapshot (`rows`).
"""
