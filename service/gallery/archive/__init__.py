"""Work on the files of a gallery: snapshot, verify, compact, replay of erasures, Parquet."""
