"""The tables of the papers: their figures, the recipe of each row, and our own figures."""
