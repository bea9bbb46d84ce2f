"""The papers' tables, row by row: what they print, the recipe of each row, and one's own figure beside it."""
