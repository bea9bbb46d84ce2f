"""Cases: what was searched for and why, the verdicts on results with their authors, and the file that is handed over.

`records.py` says what a case is, and `store.py` keeps cases in a SQLite file of the data directory. `archive.py` writes
the zip file of a case and verifies it, `export.py` the files in it, and `page.py` their page. `view.py` says what one
caller sees of a case.
"""
