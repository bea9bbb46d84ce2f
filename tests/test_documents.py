"""Documents point at files that exist."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "model").rglob("*.md")])


def headings(file: Path) -> set[str]:
    """Anchors of a Markdown file as code hosts make them: lower case, punctuation removed, hyphens for spaces."""
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: str(file.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(file: Path) -> None:
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", file.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        path = file.parent / target if target else file
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in headings(path)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def test_documents_named_in_code_exist() -> None:
    found = subprocess.run(
        ["git", "grep", "-ohE", r"\bdocs/[a-z0-9/-]+\.(md|png|json|csv)\b"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {name for name in found if not (ROOT / name).exists()} == set()


def test_module_paths_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:not3d|service|training|model|tests|benchmarks)/[\w/.*]+?)`", text))
    assert {name for name in named if not list(ROOT.glob(name))} == set()


def folders_of_the_tree() -> Iterator[str]:
    """Yield the folders in the first block of `docs/architecture.md`, with their parents."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    parents: list[str] = []
    for spaces, name in re.findall(r"^( *)([\w/]+)/ ", text, re.MULTILINE):
        parents = [*parents[: len(spaces) // 2], name]
        yield "/".join(parents)


def test_the_tree_of_the_architecture_has_every_package() -> None:
    named = set(folders_of_the_tree())
    assert {name for name in named if not (ROOT / name).is_dir()} == set()
    packages = {
        str(file.parent.relative_to(ROOT))
        for top in ("not3d", "service", "training", "model")
        for file in [*(ROOT / top).glob("*/__init__.py"), *(ROOT / "service/gallery").glob("*/__init__.py")]
    }
    assert packages - named == set()
