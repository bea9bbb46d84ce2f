"""Who may import whom, and what the serving image must do without."""

import ast
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"not3d": {"service", "training", "model"}, "service": {"model"}, "training": {"model"}, "model": set()}


def imports_of(file):
    """Top-level names of the modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := set(imports_of(file)) & (MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}))
    }
    assert not wrong


def test_only_the_application_its_routes_and_http_know_http_problems():
    service = ROOT / "service"
    upper = {service / "app.py", service / "server.py", *service.glob("routes/*.py"), *service.glob("http/*.py")}
    wrong = {
        str(file.relative_to(ROOT)): node.module
        for file in sorted(set(service.rglob("*.py")) - upper)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("service.http", "service.routes"))
    }
    assert not wrong


def _imported_modules(tree, known):
    """Yield the modules of the project that a file imports at any depth, except for type checking only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield from (name for name in [submodule if submodule in known else node.module] if name in known)
        yield from _imported_modules(node, known)


def test_no_modules_import_each_other_in_a_circle():
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in MAY_IMPORT
        for file in (ROOT / package).rglob("*.py")
    }
    imports = {
        name: sorted(set(_imported_modules(ast.parse(file.read_text(encoding="utf-8")), files)) - {name})
        for name, file in files.items()
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", ["not3d", "service", "model", "training/datasets"])
def test_torch_is_imported_by_networks_and_training_only(package):
    network = ROOT / "model" / "network"
    files = [file for file in (ROOT / package).rglob("*.py") if network not in file.parents]
    assert [str(file) for file in files if {"torch", "torchvision", "onnx"} & set(imports_of(file))] == []


def test_the_service_and_the_command_line_start_without_torch():
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "onnx", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import not3d.cli, not3d.commands.app, not3d.demo, not3d.client, service.app, service.server
import model.engines.onnx_runtime, model.engines.openvino_engine
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_milvus_gallery_imports_no_sql():
    pytest.importorskip("pymilvus")
    program = """
import sys
import service.gallery.milvus, service.gallery.milvus.gallery
forbidden = ("sqlite3", "faiss", "service.gallery.embedded", "service.gallery.archive")
found = [name for name in sys.modules if name.startswith(forbidden)]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_client_imports_neither_the_service_nor_numpy():
    program = """
import sys
from not3d.client import Client, ClientError
from not3d import SearchResult
heavy = {"cv2", "faiss", "fastapi", "model", "numpy", "service", "starlette", "training", "typer", "uvicorn"}
sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_holds_the_four_packages_with_their_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]["find"]["include"]) == {
        pattern for name in MAY_IMPORT for pattern in (name, f"{name}.*")
    }
    assert (ROOT / "not3d" / "py.typed").is_file()


def test_modules_stay_small():
    sizes = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for package in MAY_IMPORT
        for file in (ROOT / package).rglob("*.py")
    }
    assert {name: lines for name, lines in sizes.items() if lines > 600} == {}
