"""The gallery in one process: SQLite keeps the records, an index in memory finds them."""
