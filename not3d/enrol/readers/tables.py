"""Tables in text files of any encoding and dialect: rows with their line numbers, and numbers."""

import codecs
import csv
import io
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from not3d.enrol.ids import printable
from not3d.enrol.tracklets import FootageError

MAX_ERRORS = 20
"""Errors of one file that a message lists."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}
_COMMENT = re.compile(r"\s*(#|//|%)")
_SAMPLE_LINES = 50


@dataclass(frozen=True)
class Row:
    """One row of a table: the number of its line, from 1, and its cells without surrounding spaces."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The rows of a file without empty lines and comments; `comment` is the last comment line before them."""

    path: Path
    rows: list[Row]
    delimiter: str
    comment: str = ""

    @property
    def separator(self) -> str:
        """What separates the cells, in words."""
        return _NAMES[self.delimiter]


class Errors:
    """Errors of one file, which are raised together; `unit` is what is counted, a line or an object."""

    def __init__(self, path: Path, unit: str = "line") -> None:
        self._path, self._unit = path, unit
        self._found: list[str] = []
        self._count = 0

    def add(self, line: int, reason: str) -> None:
        """Remember what is wrong with a line."""
        self._count += 1
        if len(self._found) < MAX_ERRORS:
            self._found.append(f"{printable(str(self._path))}, {self._unit} {line}: {reason}")

    def raise_any(self) -> None:
        """Raise all errors as one `FootageError`, if there are any."""
        if self._count:
            more = [f"and {self._count - len(self._found)} more errors"] if self._count > len(self._found) else []
            raise FootageError("\n".join([*self._found, *more]))


def read_text(path: Path) -> str:
    """Return a text file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, or else in Latin-1.

    Raises:
        FootageError: it is not text.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    mark, encoding = next((each for each in _BOMS if data.startswith(each[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    if not mark:
        head = data[:4096]
        if zeros := head.count(0):  # UTF-16 without a mark: every other byte of digits is zero
            if zeros < len(head) // 3:
                raise FootageError(f"{printable(str(path))} is not a text file")
            encoding = "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise FootageError(f"{printable(str(path))} is not text in {encoding}: {error}") from None
        return data.decode("latin-1")


def read_table(path: Path, text: str, *, numbers: bool = True) -> Table:
    """Split text into rows. The lines say what separates the cells: `;`, a tab, `,`, `|`, or spaces.

    Args:
        path: of the file, for messages.
        text: from `read_text`.
        numbers: whether it is a table of numbers: then spaces may separate cells, and lines that begin with `#`, `%` or
            `//` are comments.

    Raises:
        FootageError: a quoted cell does not end, or the text has characters that no table has.
    """
    if "\0" in text:
        raise FootageError(f"{printable(str(path))} is not a text file")
    sheet = re.match(r"sep=(.)\r?\n", text)  # Excel's own first line
    delimiter = sheet[1] if sheet and sheet[1] in _NAMES else _find_delimiter(text, numbers=numbers)
    rows: list[Row] = []
    comment = ""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    begins = 1
    try:
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            stripped = tuple(cell.strip() for cell in cells)
            if delimiter == " ":
                stripped = tuple(" ".join(cells).split())
            while len(stripped) > 1 and not stripped[-1]:  # separators at the end of a line
                stripped = stripped[:-1]
            if not any(stripped) or (sheet and line == 1):
                continue
            if numbers and _COMMENT.match(stripped[0]):
                if not rows:
                    comment = delimiter.join(stripped)
                continue
            rows.append(Row(line, stripped))
    except csv.Error as error:
        raise FootageError(f"{printable(str(path))} is not a table: line {reader.line_num}: {error}") from error
    return Table(path, rows, delimiter, _COMMENT.sub("", comment).strip())


def parse_number(text: str) -> float:
    """Return a number; a decimal comma is read too, but not with thousands separators.

    Raises:
        ValueError: not a number.
    """
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if "_" in text:  # Python's own separator
        raise ValueError(f"not a number: {text}")
    return float(text)


def parse_integer(text: str) -> int:
    """Return a whole number, also one that is written as `12.0` or `1.2e+01`.

    Raises:
        ValueError: not a whole number.
    """
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text) if len(text) < 400 else int("x")
    value = parse_number(text)
    if not math.isfinite(value) or value % 1:
        raise ValueError(f"not a whole number: {text}")
    return int(value)


def _find_delimiter(text: str, *, numbers: bool) -> str:
    """Return the separator of the first lines; a comma may also be the decimal sign beside another separator."""
    lines = [line for line in text[:200_000].splitlines() if line.strip() and not _COMMENT.match(line)]
    lines = [re.sub(r'"[^"]*"', "", line.strip()) for line in lines[:_SAMPLE_LINES]]
    for delimiter in (";", "\t", "|"):
        if lines and Counter(delimiter in line for line in lines)[True] * 2 > len(lines):
            return delimiter
    if not numbers:
        return ","
    spaced = sum(any(re.search(r"\S\s+\S", cell) for cell in line.split(",")) for line in lines)
    if spaced * 2 > len(lines) and not any(re.search(r"[^\W\d]", line) for line in lines):
        return " "  # the commas are decimal signs
    return "," if any("," in line for line in lines) or not lines else " "
