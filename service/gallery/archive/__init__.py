"""Work on the files of the embedded gallery: snapshot, verify, compact, replay of erasures, Parquet."""
