"""Markdown tables on standard output or as a section of a page, with the targets at the end."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from model.cgroups import available_cpus

_FLAGS = {"amx_bf16": "AMX BF16", "amx_int8": "AMX INT8", "avx512_bf16": "AVX-512 BF16", "avx512_vnni": "AVX-512 VNNI"}
_FLAGS |= {"avx512f": "AVX-512", "avx_vnni": "AVX VNNI", "avx2": "AVX2"}
_PACKAGES = ("openvino", "onnxruntime", "torch", "fastapi", "uvicorn", "litserve", "opencv-python-headless", "numpy")


class Report:
    """Prints tables at once and collects the targets for the end."""

    def __init__(self) -> None:
        self._targets: list[str] = []

    def say(self, text: str = "") -> None:
        print(f"{text}\n", flush=True)

    def head(self, *columns: str) -> None:
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)

    def row(self, *cells: str) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)

    def end_table(self) -> None:
        print(flush=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.head(*columns)
        for row in rows:
            self.row(*row)
        self.end_table()

    def target(self, wanted: str, measured: str, *, met: bool) -> None:
        self._targets.append(f"- {wanted}: {measured}: **{'met' if met else 'missed'}**")

    def conclude(self) -> None:
        if self._targets:
            print("Targets:\n\n" + "\n".join(self._targets), flush=True)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def write_section(page: Path, name: str, text: str) -> None:
    """Replace the section between the markers of this name in a page, or append it to the page.

    Args:
        page: a Markdown file that exists
        name: of the section, in both markers
        text: the new section, with its heading
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    old = page.read_text(encoding="utf-8")
    if (begin in old) != (end in old):
        raise ValueError(f"{page}: the section {name} needs both markers, {begin} and {end}")
    if begin in old:
        before, rest = old.split(begin, 1)
        new = before + section + rest.split(end, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    scratch = page.with_name(f".{page.name}.{os.getpid()}.partial")
    scratch.write_text(new, encoding="utf-8")
    scratch.replace(page)


def describe_machine() -> str:
    """Return CPU, cores, instruction sets that decide an engine's speed, and versions as one line."""
    facts = {}
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    flags = facts.get("flags", "").split()
    has = [name for flag, name in _FLAGS.items() if flag in flags]
    lacks = [name for flag, name in _FLAGS.items() if flag.startswith("amx") and flag not in flags]
    without = f" (no {', no '.join(lacks)})" if lacks else ""
    cpu = facts.get("model name", platform.machine())
    busy = _read("/proc/loadavg").split()
    loaded = f"; load average {busy[0]} before the run" if busy else ""
    versions = ", ".join(filter(None, map(_version, _PACKAGES)))
    return (
        f"{available_cpus()} CPUs of {cpu}, {', '.join(has)}{without}{loaded}. Python {platform.python_version()}, "
        f"{versions}"
    )


def _version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
