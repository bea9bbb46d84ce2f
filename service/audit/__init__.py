"""The audit log: who searched for whom, read vectors, removed or replaced records, and changed keys.

`chain.py` says what an entry is and how entries are chained, `log.py` keeps them in a file.
"""
